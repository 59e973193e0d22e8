//! Settings changed by `path.to.field=value`.

use toml::{Table, Value};

/// Sets one value of a parsed config. The value is read as TOML, and as a plain string if it is none.
pub(crate) fn patch(table: &mut Table, assignment: &str) -> Result<(), String> {
    let (path, value) = assignment.split_once('=').ok_or("has the form path.to.field=value")?;
    let value = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| Value::String(value.into()));
    let (parents, field) = path.rsplit_once('.').map_or((None, path), |(p, f)| (Some(p), f));
    let mut root = Value::Table(std::mem::take(table));
    let mut at = &mut root;
    for step in parents.into_iter().flat_map(|p| p.split('.')) {
        at = match at {
            Value::Table(table) => table.get_mut(step),
            Value::Array(items) => step.parse::<usize>().ok().and_then(|i| items.get_mut(i)),
            _ => None,
        }
        .ok_or_else(|| format!("there is no `{step}` on the way to `{path}`"))?;
    }
    match at {
        Value::Table(table) => {
            table.insert(field.into(), value);
        }
        Value::Array(items) => {
            let item = field.parse::<usize>().ok().and_then(|i| items.get_mut(i));
            *item.ok_or_else(|| format!("`{field}` is not the number of a list item"))? = value;
        }
        _ => return Err(format!("`{path}` leads into a plain value")),
    }
    if let Value::Table(patched) = root {
        *table = patched;
    }
    Ok(())
}
