'use strict';
// Shows the data of the page. Text from results is only ever set as text, never as HTML.

const data = JSON.parse(document.getElementById('data').textContent);
const SVG = document.getElementById('svg').namespaceURI;
/** Classes up to which a matrix is drawn. */
const MATRIX = 30;
const METRICS = { top1: 'top-1', 'mean-per-class': 'mean per class' };
/** Rows of a long table that are drawn before all are asked for. */
const ROWS = 100;

/** An element with attributes (functions are listeners) and children (strings are text; nothing is left out). */
function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === 'function') node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const percent = (share) => (100 * share).toFixed(1);
const plural = (n, one, many) => `${n.toLocaleString('en')} ${n === 1 ? one : many || one + 's'}`;
const seconds = (s) => (s >= 100 ? s.toFixed(0) : s >= 1 ? s.toFixed(1) : s.toFixed(3));
const place = (one) => `${one.dataset}${one.protocol === 'clean' ? '' : `, protocol ${one.protocol}`}`;
const shotsOf = (k) => (k === 1 ? '1 shot' : `${k} shots`);
const className = (series, index) => (index < 0 ? '(no class)' : data.classes[series.classes][index]);
const distinct = (values) => [...new Set(values)];

/* Tables */

/** A table of objects that is sorted by its headers, searched, and cut to its first rows. */
function objectTable({ caption, columns, rows, search, sorted, limit = ROWS }) {
  let [by, down] = sorted || [null, false];
  let [query, all] = ['', false];
  const body = el('tbody');
  const heads = columns.map((column, index) => {
    const sort = () => {
      down = by === index ? !down : Boolean(column.number);
      by = index;
      draw();
    };
    return el('th', { scope: 'col', class: column.number ? null : 'words' }, el('button', { type: 'button', click: sort }, column.name));
  });
  const more = el('button', { type: 'button', class: 'more', click: () => { all = true; draw(); } });
  const count = el('p', { class: 'faint', role: 'status' });
  function draw() {
    let shown = query ? rows.filter((row) => search.some((text) => String(text(row)).toLowerCase().includes(query))) : rows.slice();
    if (by !== null) {
      const value = columns[by].value;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === y) return 0;
        if (x === null || x === undefined) return 1;
        if (y === null || y === undefined) return -1;
        return (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), 'en', { numeric: true })) * (down ? -1 : 1);
      };
      shown.sort(order);
    }
    heads.forEach((head, index) => {
      if (index === by) head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    const cut = all ? shown : shown.slice(0, limit);
    body.replaceChildren(...cut.map((row) => el('tr', null, columns.map((column, index) => {
      const value = column.show ? column.show(row) : column.value(row);
      const kind = [column.number ? '' : 'words', column.red && column.red(row) ? 'red' : '', column.long ? 'long' : ''].join(' ').trim();
      return el(index === 0 ? 'th' : 'td', { class: kind || null, scope: index === 0 ? 'row' : null }, value === null || value === undefined ? '–' : value instanceof Node ? value : String(value));
    }))));
    more.hidden = cut.length === shown.length;
    more.textContent = `Show all ${shown.length.toLocaleString('en')} rows`;
    count.textContent = query ? `${plural(shown.length, 'row')} of ${rows.length.toLocaleString('en')}` : '';
  }
  const input = search && el('input', { type: 'search', input: (event) => { query = event.target.value.trim().toLowerCase(); draw(); } });
  draw();
  return el('div', null,
    input && el('div', { class: 'choice' }, el('label', null, 'Search', input)), count,
    el('div', { class: 'scroll tall', tabindex: 0, role: 'region', 'aria-label': caption }, el('table', null, el('caption', null, caption), el('thead', null, el('tr', null, heads)), body)), more);
}

/** A table of `kshot plot`. */
function storedTable(table) {
  const cells = (row) => row.map(([text, red], index) =>
    el(index === 0 ? 'th' : 'td', { scope: index === 0 ? 'row' : null, class: [table.columns[index][1] ? 'words' : '', red ? 'red' : ''].join(' ').trim() || null }, text));
  const groups = table.groups.map((group) => el('tbody', null,
    el('tr', null, el('th', { scope: 'rowgroup', colspan: table.columns.length }, group.name)),
    group.rows.map((row) => el('tr', null, cells(row)))));
  const whole = el('div', { class: 'scroll tall', tabindex: 0, role: 'region', 'aria-label': table.title }, el('table', null,
    el('thead', null, el('tr', null, table.columns.map(([name, words]) => el('th', { scope: 'col', class: words ? 'words' : null }, name)))), groups));
  const notes = table.notes.map((note) => el('p', { class: note.startsWith('†') ? 'red' : 'faint' }, note));
  if (!table.long) return [el('h3', null, table.title), whole, notes];
  return [el('h3', null, table.title), el('details', null, el('summary', null, 'Show the table'), whole, notes)];
}

/* Pictures */

function thumbnail(number) {
  const [id, truth, shown] = data.images[number];
  if (typeof shown === 'string') return el('img', { src: shown, alt: `${truth}: ${id}` });
  return el('span', { class: 'none' }, shown === null ? 'no thumbnail' : 'cannot be read');
}

/** A list of pictures, each a button that opens it. */
function pictures(numbers, remark, answers) {
  return el('ul', { class: 'pictures' }, numbers.map((number) => el('li', null, pictureButton(number, remark, answers))));
}

function pictureButton(number, remark, answers) {
  const [id, truth, shown] = data.images[number];
  // Without a thumbnail the words in its place are the name of the button.
  const label = typeof shown === 'string' ? `Open ${truth}: ${id}` : null;
  return el('button', { type: 'button', class: 'picture', 'aria-label': label, title: id, click: () => openPicture(number, remark, answers) }, thumbnail(number), truth);
}

function openPicture(number, remark, answers) {
  const [id, truth, shown] = data.images[number];
  const dialog = document.getElementById('picture');
  const why = typeof shown === 'number' ? data.thumbnails.reasons[shown] : shown === null ? 'It is beyond the bound on thumbnails of this page.' : null;
  dialog.replaceChildren(
    el('h2', { id: 'picture-title' }, truth), thumbnail(number),
    el('dl', null, el('dt', null, 'Image'), el('dd', null, id), el('dt', null, 'True class'), el('dd', null, truth),
      remark && [el('dt', null, 'Shown for'), el('dd', null, remark)], why && [el('dt', null, 'No thumbnail'), el('dd', null, why)]),
    answers ? answers(number) : '',
    el('p', null, el('button', { type: 'button', click: () => dialog.close() }, 'Close')));
  dialog.showModal();
}

/** Answers of all learners and seeds to a picture of a gallery. */
function answersTable(results, group, number) {
  const answers = group && group.answers[number];
  if (!answers) return el('p', { class: 'faint' }, 'The answers of all learners are kept for images of the galleries.');
  const truth = data.images[number][1];
  const written = answers.some((answer) => answer[4] !== null);
  return el('div', { class: 'answers' }, el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Answers of all learners' }, el('table', null, el('caption', null, 'Answers of all learners'), el('thead', null, el('tr', null,
    el('th', { scope: 'col', class: 'words' }, 'learner'), el('th', { scope: 'col' }, 'seed'), el('th', { scope: 'col', class: 'words' }, 'answer'),
    el('th', { scope: 'col' }, 'p'), written && el('th', { scope: 'col', class: 'words' }, 'as written'))),
  el('tbody', null, answers.map(([index, seed, answer, p, text]) => {
    const series = results.series[index];
    const name = className(series, answer);
    return el('tr', null, el('th', { scope: 'row', class: series.red ? 'words red' : 'words' }, series.learner + (series.red ? ' †' : '')), el('td', null, String(seed)),
      el('td', { class: 'words' }, (name === truth ? '✓ ' : '✗ ') + name), el('td', null, p === null ? '–' : p.toFixed(2)),
      written && el('td', { class: 'words' }, text === null ? '–' : `“${text}”`));
  })))));
}

/* Curves */

const colour = (index) => `var(--c${index % 8})`;
const dash = (index) => ['', '6 3', '2 3', '8 3 2 3'][Math.floor(index / 2) % 4];

function curves(results) {
  const learners = distinct(results.points.map((p) => p.learner));
  const panels = distinct(results.points.map((p) => JSON.stringify([p.panel, p.dataset, p.protocol])));
  return el('div', { class: 'charts' }, panels.map((key) => {
    const [panel, dataset, protocol] = JSON.parse(key);
    return chart(results.points.filter((p) => p.panel === panel && p.dataset === dataset && p.protocol === protocol), learners);
  }));
}

function chart(points, learners) {
  const ks = distinct(points.map((p) => p.shots)).sort((a, b) => (a === 'all' ? 1e9 : a) - (b === 'all' ? 1e9 : b));
  const [width, height, left, bottom, top] = [340, 210, 34, 26, 8];
  const low = Math.max(0, Math.floor(Math.min(...points.map((p) => p.low)) * 10) / 10);
  const high = Math.min(1, Math.ceil(Math.max(...points.map((p) => p.high)) * 10) / 10);
  const x = (k) => left + 16 + (ks.indexOf(k) * (width - left - 32)) / Math.max(ks.length - 1, 1);
  const y = (share) => height - bottom - ((share - low) * (height - bottom - top)) / (high - low || 1);
  const ticks = [];
  for (let tick = low; tick <= high + 1e-9; tick += high - low > 0.5 ? 0.2 : 0.1) ticks.push(tick);
  const at = svg('line', { class: 'at', y1: top, y2: height - bottom });
  const lines = learners.map((learner, index) => {
    const own = points.filter((p) => p.learner === learner).sort((a, b) => ks.indexOf(a.shots) - ks.indexOf(b.shots));
    const shift = (index - (learners.length - 1) / 2) * 2.2;
    const path = own.map((p, i) => `${i ? 'L' : 'M'}${(x(p.shots) + shift).toFixed(1)} ${y(p.mean).toFixed(1)}`).join('');
    return [svg('path', { d: path, fill: 'none', stroke: colour(index), 'stroke-width': 1.6, 'stroke-dasharray': dash(index) }),
      own.map((p) => [svg('line', { x1: x(p.shots) + shift, x2: x(p.shots) + shift, y1: y(p.low), y2: y(p.high), stroke: colour(index), 'stroke-width': 1, opacity: 0.6 }),
        svg('circle', { cx: x(p.shots) + shift, cy: y(p.mean), r: p.red ? 4.5 : 2.6, fill: p.red ? 'var(--paper)' : colour(index), stroke: p.red ? 'var(--red)' : colour(index), 'stroke-width': p.red ? 2.5 : 1 })])];
  });
  const drawing = svg('svg', { viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' },
    ticks.map((tick) => [svg('line', { class: 'grid', x1: left, x2: width - 4, y1: y(tick), y2: y(tick) }), svg('text', { x: left - 5, y: y(tick) + 4, 'text-anchor': 'end' }, (100 * tick).toFixed(0))]),
    ks.map((k) => svg('text', { x: x(k), y: height - 9, 'text-anchor': 'middle' }, String(k))), at, lines);
  const readout = el('div', { role: 'status' });
  const slider = el('input', { type: 'range', min: 0, max: ks.length - 1, step: 1, value: ks.length - 1, 'aria-label': `Shots at which accuracies on ${place(points[0])} are read` });
  const show = () => {
    const k = ks[Number(slider.value)];
    slider.setAttribute('aria-valuetext', shotsOf(k));
    at.setAttribute('x1', x(k));
    at.setAttribute('x2', x(k));
    readout.replaceChildren(el('table', null, el('caption', null, `At ${shotsOf(k)}: accuracy in % [95 % interval]`), el('tbody', null, learners.map((learner, index) => {
      const point = points.find((p) => p.learner === learner && p.shots === k);
      return point && el('tr', null, el('th', { scope: 'row', class: 'words' }, swatch(index), learner + (point.red ? ' †' : '')),
        el('td', { class: point.red ? 'red' : null }, `${percent(point.mean)} [${percent(point.low)}, ${percent(point.high)}]`));
    }))));
  };
  slider.addEventListener('input', show);
  drawing.addEventListener('pointermove', (event) => {
    const box = drawing.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * width;
    const nearest = ks.reduce((best, k) => (Math.abs(x(k) - across) < Math.abs(x(best) - across) ? k : best));
    slider.value = ks.indexOf(nearest);
    show();
  });
  show();
  const metric = METRICS[points[0].metric];
  return el('section', { class: 'chart' }, el('h4', null, place(points[0]), el('span', { class: 'faint' }, [metric && ` ${metric}`, points[0].regime && `, ${points[0].regime} concepts`])), drawing, slider, readout);
}

function swatch(index) {
  const line = svg('line', { x1: 0, x2: 24, y1: 5, y2: 5, stroke: colour(index), 'stroke-width': 2.5, 'stroke-dasharray': dash(index) });
  return svg('svg', { class: 'swatch', viewBox: '0 0 24 10', 'aria-hidden': 'true' }, line);
}

/* One learner at one number of shots */

function perClass(series) {
  const rows = series.tested.map((tested, index) => {
    const wrong = series.confusion.filter(([truth, answer]) => truth === index && answer !== index);
    const most = wrong.reduce((best, pair) => (best && best[2] >= pair[2] ? best : pair), null);
    return { name: className(series, index), tested, right: series.right[index], share: tested ? series.right[index] / tested : null,
      mistaken: most && `${className(series, most[1])} (${most[2]})` };
  });
  return objectTable({
    caption: 'Accuracy by class, answers of all seeds', rows, search: [(row) => row.name], sorted: [3, false],
    columns: [{ name: 'class', value: (row) => row.name }, { name: 'answers', number: true, value: (row) => row.tested },
      { name: 'right', number: true, value: (row) => row.right },
      { name: 'accuracy in %', number: true, value: (row) => row.share, show: (row) => (row.share === null ? null : percent(row.share)), red: () => series.red },
      { name: 'most often taken for', value: (row) => row.mistaken }],
  });
}

function confusions(results, group, series) {
  const opened = el('div');
  const classes = data.classes[series.classes];
  const name = (pair) => `${className(series, pair[0])} → ${className(series, pair[1])}`;
  const open = (pair) => {
    const [truth, answer, count, images] = pair;
    const text = truth === answer ? `${className(series, truth)}, answered rightly` : `${className(series, truth)}, taken for ${className(series, answer)}`;
    const heading = el('h4', { tabindex: -1 }, `${text}: ${plural(count, 'answer')}, ${plural(images.length, 'image')} shown`);
    opened.replaceChildren(el('div', { class: 'opened' }, heading, pictures(images, text, (number) => answersTable(results, group, number))));
    heading.focus();
  };
  const share = (pair) => pair[2] / Math.max(series.tested[pair[0]], 1);
  const list = () => objectTable({
    caption: 'Pairs of true and answered class; a pair opens its images', rows: series.confusion.filter((pair) => pair[0] !== pair[1]),
    search: [name], sorted: [2, true],
    columns: [{ name: 'true class', value: (pair) => className(series, pair[0]) }, { name: 'answer', value: (pair) => className(series, pair[1]) },
      { name: 'answers', number: true, value: (pair) => pair[2] },
      { name: '% of the class', number: true, value: share, show: (pair) => percent(share(pair)) },
      { name: 'images', number: true, value: (pair) => pair[3].length, show: (pair) => el('button', { type: 'button', 'aria-label': `Open images of ${name(pair)}`, click: () => open(pair) }, 'Open') }],
  });
  const holder = el('div');
  let [query, order] = ['', 'label'];
  const drawMatrix = () => {
    let shown = classes.map((_, index) => index).filter((index) => classes[index].toLowerCase().includes(query));
    const matched = shown.length;
    if (order === 'accuracy') shown.sort((a, b) => series.right[a] / series.tested[a] - series.right[b] / series.tested[b]);
    if (order === 'name') shown.sort((a, b) => classes[a].localeCompare(classes[b], 'en'));
    if (matched > MATRIX) {
      holder.replaceChildren(el('p', { class: 'faint' }, `A matrix is drawn of up to ${MATRIX} classes; ${matched} match. Search for some, or use the list below.`));
      return;
    }
    const among = new Set(shown);
    const pairs = new Map(series.confusion.map((pair) => [`${pair[0]} ${pair[1]}`, pair]));
    // With a search the rows are the classes found, and the columns all that they were taken for.
    let across = shown;
    if (query) {
      const answered = distinct(series.confusion.filter((pair) => among.has(pair[0]) && pair[1] >= 0).map((pair) => pair[1]));
      across = [...shown, ...answered.filter((index) => !among.has(index)).slice(0, MATRIX)];
    }
    if (series.confusion.some((pair) => pair[1] < 0 && among.has(pair[0]))) across = [...across, -1];
    holder.replaceChildren(el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Confusion matrix' }, el('table', { class: 'matrix' },
      el('caption', null, 'Rows: true class; columns: answer; number of answers over all seeds. A number opens its images.'),
      el('thead', null, el('tr', null, el('td'), across.map((index) => el('th', { scope: 'col' }, el('span', null, className(series, index)))))),
      el('tbody', null, shown.map((row) => el('tr', null, el('th', { scope: 'row', class: 'words' }, classes[row]), across.map((column) => {
        const pair = pairs.get(`${row} ${column}`);
        if (!pair) return el('td');
        const strength = (0.12 + 0.5 * share(pair)).toFixed(2);
        const kind = row === column ? 'right' : 'wrong';
        return el('td', null, el('button', { type: 'button', style: `background: rgb(var(--${kind}) / ${strength})`, 'aria-label': `${name(pair)}: ${plural(pair[2], 'answer')}`, click: () => open(pair) }, String(pair[2])));
      })))))));
  };
  drawMatrix();
  const matrix = [el('div', { class: 'choice' },
    el('label', null, 'Search classes', el('input', { type: 'search', input: (event) => { query = event.target.value.trim().toLowerCase(); drawMatrix(); } })),
    el('label', null, 'Order', el('select', { change: (event) => { order = event.target.value; drawMatrix(); } }, el('option', { value: 'label' }, 'as labelled'), el('option', { value: 'name' }, 'by name'), el('option', { value: 'accuracy' }, 'least accurate first')))), holder];
  const left = series.left_out_pairs > 0 && el('p', { class: 'faint' }, `${plural(series.left_out_pairs, 'rarest pair')} with ${plural(series.left_out_answers, 'answer')} are left out: the page keeps ${data.pairs.toLocaleString('en')} pairs of each learner at each number of shots.`);
  const listed = el('details', { open: classes.length > MATRIX }, el('summary', null, 'Wrong answers as a list'), list());
  return [matrix, opened, left, listed];
}

/** Of each learner, with how many of its runs it was right about a picture. */
function rightRuns(results, group, number) {
  const truth = data.images[number][1];
  const runs = new Map();
  for (const [index, , answer] of group.answers[number] || []) {
    const series = results.series[index];
    const [right, all] = runs.get(series.learner) || [0, 0];
    runs.set(series.learner, [right + (className(series, answer) === truth ? 1 : 0), all + 1]);
  }
  return [...runs].map(([learner, [right, all]]) => `${learner} ${right} of ${all}`).join(', ');
}

function gallery(results, group, series, heading, numbers, remark, none) {
  const cards = numbers.map((number) => {
    const [id, truth] = data.images[number];
    const own = (group.answers[number] || []).filter(([index]) => results.series[index] === series);
    const wrong = own.filter((answer) => className(series, answer[2]) !== truth);
    const said = distinct(wrong.map(([, , answer, p, text]) => `${className(series, answer)}${p === null ? '' : ` (p ${p.toFixed(2)})`}${text === null ? '' : ` “${text}”`}`));
    return el('li', { class: 'card' }, pictureButton(number, remark, (n) => answersTable(results, group, n)), el('div', { class: 'answers' },
      el('div', null, 'True: ', el('strong', null, truth)),
      series && el('div', null, wrong.length ? `Answered: ${said.join('; ')}` : 'Answered rightly'),
      !series && el('div', null, `Right: ${rightRuns(results, group, number)}`),
      series && own.length > 1 && el('div', { class: 'faint' }, `wrong with ${wrong.length} of ${own.length} seeds`),
      el('div', { class: 'faint' }, id),
      el('details', null, el('summary', null, 'All learners'), answersTable(results, group, number))));
  });
  return [el('h3', null, heading), numbers.length ? el('ul', { class: 'pictures' }, cards) : el('p', { class: 'faint' }, none)];
}

/** The part that is about one dataset, learner and number of shots, chosen by three lists. */
function chosen(results, prefix) {
  const datasets = distinct(results.series.map(place));
  const [dataset, learner, shots] = ['Dataset', 'Learner', 'Shots'].map((name) => [name, el('select', { change: () => draw() })]);
  const fill = (select, values, wanted) => {
    select.replaceChildren(...values.map((value) => el('option', { value: String(value) }, String(value))));
    select.value = values.map(String).includes(wanted) ? wanted : String(values[values.length - 1]);
  };
  const byClass = el('div');
  const wrong = el('div');
  fill(dataset[1], datasets, datasets[0]);
  fill(learner[1], distinct(results.series.filter((s) => place(s) === datasets[0]).map((s) => s.learner)), results.series[0].learner);
  function draw() {
    const here = results.series.filter((s) => place(s) === dataset[1].value);
    fill(learner[1], distinct(here.map((s) => s.learner)), learner[1].value);
    const own = here.filter((s) => s.learner === learner[1].value);
    fill(shots[1], own.map((s) => s.shots), shots[1].value);
    const series = own.find((s) => String(s.shots) === shots[1].value);
    const group = results.groups.find((g) => place(g) === place(series) && g.shots === series.shots);
    const metric = METRICS[series.headline];
    const about = el('p', { class: series.red ? 'red' : null }, `${series.learner} on ${place(series)}, ${shotsOf(series.shots)}${series.capped ? ` (a class has ${series.capped})` : ''}: ${percent(series.accuracy)} % ${metric} over ${series.n_test.toLocaleString('en')} test images${series.seeds.length ? `, ${series.seeds.length === 1 ? 'seed' : 'seeds'} ${series.seeds.join(', ')}` : ''}; answers read by ${series.reading}.${series.red ? ' † A sanity control is red: these numbers are not to be used.' : ''}`);
    byClass.replaceChildren(about, el('h3', null, 'Confusion matrix'), ...confusions(results, group, series).flat().filter(Boolean), el('h3', null, 'Accuracy by class'), perClass(series));
    const sure = gallery(results, group, series, 'Most confident wrong answers', series.surest, 'a wrong answer with high probability', 'None: all answers are right, or this learner has no probabilities.');
    const often = gallery(results, group, series, 'Most often wrong over seeds', series.often, 'wrong with several seeds', series.seeds.length > 1 ? 'No image was answered wrongly with two seeds.' : 'There is one run; this takes two seeds.');
    const apart = gallery(results, group, null, 'Where learners disagree most', group.disagreements, 'learners disagree', 'They agree on every image, or there is one learner.');
    wrong.replaceChildren(el('p', { class: 'faint' }, 'p: probability of the answered class, normalised over the classes. Learners that write their answers are shown with what they wrote.'), ...[sure, often, apart].flat());
  }
  draw();
  const lists = [dataset, learner, shots].map(([name, select]) => el('label', null, name, select));
  return [section(prefix, 'answers', 'By class', el('div', { class: 'choice', role: 'group', 'aria-label': 'Shown in the next two sections' }, lists), byClass),
    section(prefix, 'wrong', 'Wrong answers', wrong)];
}

/* The rest */

function shots(results) {
  const withShots = results.data.filter((one) => one.shots !== 0);
  const name = (one) => `${place(one)}, ${shotsOf(one.shots)}, seed ${one.seed}`;
  if (!withShots.length) return el('p', { class: 'faint' }, 'No cell has learned from examples.');
  const holder = el('div');
  const select = el('select', { change: () => draw() }, withShots.map((one, index) => el('option', { value: index }, name(one))));
  function draw() {
    const one = withShots[Number(select.value)];
    const twins = one.card && one.card.near_duplicates;
    const byId = new Map(one.images.map((number) => [data.images[number][0], number]));
    const pairs = twins && twins.list.length > 0 && objectTable({
      caption: 'Shots that look like test images', rows: twins.list, limit: 20,
      columns: [{ name: 'shot', value: (pair) => pair.train, show: (pair) => (byId.has(pair.train) ? pictureButton(byId.get(pair.train), 'looks like a test image') : pair.train) },
        { name: 'test image', value: (pair) => pair.test }, { name: 'bits that differ', number: true, value: (pair) => pair.bits }],
    });
    holder.replaceChildren(
      one.note ? el('p', { class: 'faint' }, `The shots are not shown: ${one.note}.`) : pictures(one.images, `a shot of ${name(one)}`),
      one.left_out ? el('p', { class: 'faint' }, `${plural(one.left_out, 'further shot')} are not listed.`) : '',
      twins ? el('p', null, `${plural(twins.pairs, 'pair')} of a shot and a test image differ in at most ${twins.within} of 64 bits of their difference hashes.`) : '',
      pairs || '');
  }
  draw();
  return [el('div', { class: 'choice' }, el('label', null, 'Split', select)), holder];
}

function cost(results) {
  return objectTable({
    caption: 'Cells as they were timed; images/s of training count repeats', rows: results.cells, search: [(cell) => `${place(cell)} ${cell.learner} ${cell.device}`],
    columns: [{ name: 'dataset', value: place }, { name: 'learner', value: (c) => c.learner }, { name: 'k', number: true, value: (c) => c.shots, show: (c) => String(c.shots) }, { name: 'seed', number: true, value: (c) => c.seed },
      { name: 'accuracy in %', number: true, value: (c) => c.accuracy, show: (c) => percent(c.accuracy) + (c.red ? ' †' : ''), red: (c) => c.red },
      { name: 'train s', number: true, value: (c) => c.train_seconds, show: (c) => seconds(c.train_seconds) },
      { name: 'test s', number: true, value: (c) => c.eval_seconds, show: (c) => seconds(c.eval_seconds) },
      { name: 'device s', number: true, value: (c) => c.device_seconds, show: (c) => seconds(c.device_seconds) },
      { name: 'train images/s', number: true, value: (c) => c.train_images_per_second, show: (c) => (c.steps ? c.train_images_per_second.toFixed(0) : null) },
      { name: 'test images/s', number: true, value: (c) => c.eval_images_per_second, show: (c) => c.eval_images_per_second.toFixed(0) },
      { name: 'steps', number: true, value: (c) => c.steps }, { name: 'last loss', number: true, value: (c) => c.final_loss, show: (c) => (c.final_loss === null ? null : c.final_loss.toPrecision(3)) },
      { name: 'trained numbers', number: true, value: (c) => c.trainable_parameters, show: (c) => c.trainable_parameters.toLocaleString('en') },
      { name: 'device', value: (c) => `${c.device}${c.device === 'cpu' ? `, ${plural(c.threads, 'thread')}` : ''}` }],
  });
}

function cards(results) {
  const keys = distinct(results.data.map(place));
  const shown = keys.map((key) => {
    const own = results.data.filter((one) => place(one) === key);
    const last = own.filter((one) => one.card).pop();
    if (!last) return [el('h3', null, key), el('p', { class: 'faint' }, 'These records have no protocol card.')];
    const card = last.card;
    const facts = [['Protocol', card.protocol], ['Form', card.form], ['Source', card.source], ['Revision', card.revision || 'none'], ['Classes', `${card.classes}, SHA-256 ${card.classes_sha256}`],
      ['Images', `${card.counts.pool} in the pool, ${card.counts.val} set aside for validation, ${card.counts.test} in the test`], ['Headline', card.headline],
      ['Left out', `${card.left_out} by the manifest, ${(card.refused || []).length} that a learner cannot take`]];
    return [el('h3', null, key), el('dl', null, facts.map(([name, value]) => [el('dt', null, name), el('dd', null, String(value))])),
      el('details', null, el('summary', null, 'Splits'), objectTable({
        caption: `Splits of ${key}`, rows: own,
        columns: [{ name: 'k', number: true, value: (one) => one.shots, show: (one) => String(one.shots) }, { name: 'seed', number: true, value: (one) => one.seed },
          { name: 'shots', number: true, value: (one) => one.card && one.card.counts.train }, { name: 'really of each class', number: true, value: (one) => one.card && one.card.capped },
          { name: 'near-duplicates of test images', number: true, value: (one) => one.card && one.card.near_duplicates && one.card.near_duplicates.pairs }],
      }))];
  });
  return shown;
}

function provenance(results) {
  const hash = (name, value) => ({ name, value, long: true, show: (cell) => el('code', null, value(cell) || '–') });
  const verdicts = (cell) => (cell.controls ? cell.controls.map(([name, verdict, measures]) => `${name}: ${verdict} (${measures.join('; ')})`).join(' · ') : 'not controlled');
  return [el('dl', null,
    el('dt', null, 'This page'), el('dd', null, el('code', null, data.command), ` by kshot ${data.version}`),
    el('dt', null, 'The results'), el('dd', null, results.command ? el('code', null, results.command) : 'their config is not stored in this folder')),
  results.config && el('details', null, el('summary', null, 'The config, with every default'), el('pre', { tabindex: 0 }, results.config)),
  objectTable({
    caption: 'Cells, what they were made with, and their sanity controls', rows: results.cells, search: [(c) => `${c.run_id} ${place(c)} ${c.learner}`], limit: 20,
    columns: [{ name: 'run_id', value: (c) => c.run_id, show: (c) => el('code', null, c.run_id) }, { name: 'dataset', value: place }, { name: 'learner', value: (c) => c.learner },
      { name: 'k', number: true, value: (c) => c.shots, show: (c) => String(c.shots) }, { name: 'seed', number: true, value: (c) => c.seed },
      { name: 'controls', value: verdicts, long: true, red: (c) => c.red }, { name: 'finished', value: (c) => c.finished }, { name: 'commit', value: (c) => c.commit },
      { name: 'recipe', number: true, value: (c) => c.recipe }, { name: 'numbers', value: (c) => `${c.dtype}, ${c.backend}` },
      hash('weights SHA-256', (c) => c.weights), hash('split SHA-256', (c) => c.split_sha256), hash('predictions SHA-256', (c) => c.predictions_sha256)],
  })];
}

function redBanner(results) {
  const red = results.cells.filter((cell) => cell.red);
  if (!red.length) return null;
  return el('div', { class: 'banner', role: 'note' }, el('p', { class: 'red' }, `† ${plural(red.length, 'cell has', 'cells have')} a red sanity control: such numbers are not to be used.`),
    el('ul', null, red.slice(0, 20).map((cell) => el('li', null, `${place(cell)}, ${cell.learner}, ${shotsOf(cell.shots)}, seed ${cell.seed}: ${(cell.controls || []).filter(([, verdict]) => verdict === 'RED').map(([name]) => name).join(', ')}`))));
}

const contents = [];

function section(prefix, name, title, ...children) {
  const id = `${prefix}${name}`;
  contents.push([id, title]);
  return el('section', { 'aria-labelledby': `${id}-title` }, el('h2', { id, tabindex: -1 }, el('span', { id: `${id}-title` }, title)), children);
}

function folder(results, index) {
  const several = data.results.length > 1;
  const prefix = several ? `r${index + 1}-` : '';
  const start = contents.length;
  const parts = [
    section(prefix, 'accuracy', 'Accuracy', redBanner(results),
      results.cells.some((cell) => cell.red) ? null : el('p', { class: 'faint' }, controlled(results)),
      results.caveat && el('p', null, el('strong', null, results.caveat)),
      el('h3', null, 'Curves'), curves(results),
      el('details', null, el('summary', null, 'The figure as kshot plot draws it'), el('img', { class: 'figure', src: results.figure, alt: 'Accuracy against labelled examples per class; the numbers are in the table Accuracy' })),
      results.tables.map(storedTable)),
    ...chosen(results, prefix),
    section(prefix, 'shots', 'The shots', shots(results)),
    section(prefix, 'reliability', 'Reliability', results.reliability ? el('img', { class: 'figure', src: results.reliability, alt: 'How often the most probable class is right, by its probability; the errors are in the table Calibration' }) : el('p', { class: 'faint' }, 'No learner of these results has probabilities, or a sanity control of those that have is red.')),
    section(prefix, 'cost', 'Cost', cost(results)),
    section(prefix, 'data', 'Data', cards(results)),
    section(prefix, 'provenance', 'Commands, versions, hashes', provenance(results)),
  ];
  const links = contents.slice(start).map(([id, title]) => el('li', null, el('a', { href: `#${id}` }, title)));
  document.getElementById('contents').append(several ? el('p', { class: 'faint' }, results.name) : '', el('ul', null, links));
  return el('article', null, several ? el('h2', null, `Results ${results.name}`) : null, parts);
}

function controlled(results) {
  const n = results.cells.filter((cell) => cell.controls).length;
  return n ? `Sanity controls of ${plural(n, 'cell')} of ${results.cells.length.toLocaleString('en')}: none is red.` : 'No cell has sanity controls; kshot control makes them.';
}

function start() {
  const names = data.results.map((results) => results.name).join(', ');
  document.title = `${names}: kshot report`;
  document.getElementById('title').textContent = `Report of ${names}`;
  const budget = data.thumbnails;
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
  const parts = [`${plural(data.results.reduce((n, results) => n + results.cells.length, 0), 'cell')}.`,
    `Thumbnails of ${budget.thumbnails.toLocaleString('en')} of ${plural(budget.images, 'image')} in ${megabytes(budget.bytes)}, at most ${budget.most.toLocaleString('en')} in ${megabytes(budget.most_bytes)}.`,
    budget.left && `${budget.left.toLocaleString('en')} are beyond that bound.`, budget.unreadable && `${budget.unreadable.toLocaleString('en')} could not be read: ${budget.reasons.slice(0, 3).join('; ')}${budget.reasons.length > 3 ? '; …' : ''}.`];
  document.getElementById('summary').textContent = parts.filter(Boolean).join(' ');
  document.getElementById('main').append(...data.results.map(folder));
}

start();
