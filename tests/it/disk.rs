//! The disk fills up, turns read-only or goes away in the middle of a sweep: a clear error, and nothing is lost.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::forty::{self, Running, SWEEP};
use crate::support::{Sandbox, copy, stderr};

/// How a process gets a mount table of its own here, if it may.
fn namespace() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["-m"], &["-U", "-r", "-m"]];
    ways.into_iter().find(|way| {
        let mut probe = Command::new("unshare");
        let probe = probe.args(*way).args(["sh", "-c", "mount -t tmpfs none /tmp"]);
        let probe = probe.stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    })
}

/// A shell in which `results` is a file system of its own, `kshot` the sweep's command line, and `midway` waits until
/// a third of the cells are finished. What the script leaves in `results` lies in `kept` afterwards.
fn on_a_small_disk(sandbox: &Sandbox, namespace: &[&str], script: &str) -> Output {
    let template = sandbox.kshot(&SWEEP);
    let mut shell = Command::new("unshare");
    shell.args(namespace).args(["bash", "-c"]);
    let words: Vec<String> = std::iter::once(template.get_program())
        .chain(template.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    shell.arg(format!(
        "set -u\nmkdir -p results/forty kept\nmount -t tmpfs -o size=64m none results/forty || exit 90\n\
         kshot() {{ {} \"$@\"; }}\n\
         midway() {{ until [ \"$(ls results/forty/cells 2>/dev/null | wc -l)\" -ge 13 ]; do sleep 0.02; done; }}\n\
         {script}\ncp -r results/forty/. kept/ || exit 91\n",
        words.join(" ")
    ));
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(sandbox.path("")).output().unwrap()
}

/// The first sweep of a script ended with exit code 2 and an error that names a file of the results, the cause and a
/// remedy; run again, the results are whole.
fn assert_recovered(sandbox: &Sandbox, output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert!(output.status.success(), "{}: {said}", output.status);
    let first = fs::read_to_string(sandbox.path("first")).unwrap();
    assert_eq!(fs::read_to_string(sandbox.path("code")).unwrap().trim(), "2", "{first}");
    for word in ["error: ", "`results/forty/", "\nhint: "].iter().chain(words) {
        assert!(first.contains(word), "`{word}` is not in: {first}");
    }
    let second = fs::read_to_string(sandbox.path("second")).unwrap();
    let kept = second.lines().find(|line| line.ends_with("cells are finished already"));
    let kept: usize = kept.unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((13..40).contains(&kept), "{kept} cells were kept");
    let lines: Vec<String> = second.lines().map(str::to_owned).collect();
    assert_eq!(forty::ran(&lines), 40 - kept, "{second}");
    forty::assert_whole(&sandbox.path("kept"));
}

#[test]
fn a_full_disk_stops_the_sweep_and_nothing_is_lost() {
    let Some(namespace) = namespace() else {
        println!("no mount namespaces here: tested by a results folder that goes away instead");
        return a_results_folder_that_goes_away_stops_the_sweep();
    };
    let sandbox = forty::sandbox();
    let script = "
        kshot 2> first & sweep=$!
        midway; cat /dev/zero > results/forty/ballast 2> /dev/null
        wait $sweep; echo $? > code
        rm results/forty/ballast
        kshot 2> second || exit 92";
    let output = on_a_small_disk(&sandbox, namespace, script);
    assert_recovered(&sandbox, &output, &["No space left on device", "free some space"]);
}

#[test]
fn a_disk_that_turns_read_only_stops_the_sweep_and_nothing_is_lost() {
    let Some(namespace) = namespace() else {
        println!("no mount namespaces here: tested by a results folder that goes away instead");
        return a_results_folder_that_goes_away_stops_the_sweep();
    };
    let sandbox = forty::sandbox();
    // Refused as long as a file is open to be written: asked again until it is not, which cells side by side leave no time for.
    let script = "
        kshot --jobs 1 2> first & sweep=$!
        midway; until mount -o remount,ro results/forty 2> /dev/null; do :; done
        wait $sweep; echo $? > code
        kshot 2> third; echo $? >> third
        mount -o remount,rw results/forty || exit 93
        kshot 2> second || exit 92";
    let output = on_a_small_disk(&sandbox, namespace, script);
    assert_recovered(&sandbox, &output, &["Read-only file system", "writable folder"]);
    let refused = fs::read_to_string(sandbox.path("third")).unwrap();
    assert!(
        refused.ends_with("\n2\n") && refused.starts_with("error: cannot write into `results/forty"),
        "{refused}"
    );
}

#[test]
fn a_results_folder_that_goes_away_stops_the_sweep() {
    let sandbox = forty::sandbox();
    let folder = sandbox.path("results/forty");
    let mut running = Running::sweep(&sandbox, &[]);
    assert!(running.until(|_| forty::finished(&folder).len() >= 13));
    // As a share that is unmounted: what was written lies elsewhere.
    fs::rename(&folder, sandbox.path("elsewhere")).unwrap();
    let (status, lines) = running.end();
    let said = lines.join("\n");
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("error: ") && said.contains("`results/forty"), "{said}");
    thread::sleep(Duration::from_millis(10));
    copy(&sandbox.path("elsewhere"), &folder);
    let stored = forty::finished(&folder);
    let lines = Running::sweep(&sandbox, &[]).succeed();
    assert_eq!(forty::ran(&lines), 40 - stored.len());
    let now = forty::finished(&folder);
    assert!(stored.iter().all(|(run_id, file)| now.get(run_id) == Some(file)));
    forty::assert_whole(&folder);
}
