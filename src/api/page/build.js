// Elements of the page. A text becomes a node of text and nothing else: the browser refuses any other
// way (Trusted Types), and there is none here.
const $ = (id) => document.getElementById(id);

// make('li.a.b', {title: 'x'}, 'text', child): children that are null are left out.
function make(what, members = {}, ...children) {
  const [name, ...classes] = what.split('.');
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(' ');
  for (const [key, given] of Object.entries(members)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), given);
    else if (given !== null && given !== undefined && given !== false) made.setAttribute(key, given === true ? '' : given);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ''));
  return made;
}

const button = (text, does, classes = '') => make(`button${classes}`, { type: 'button', onclick: does }, text);
const any = (text) => make('bdi', {}, clean(text));
const when = (time, shown) => make('time', { datetime: time, title: moment(time) }, shown);

// Writes a text where it is another one.
function put(element, text) {
  const wanted = text ?? '';
  if (element.shown === wanted) return false;
  element.shown = wanted;
  element.textContent = wanted;
  return true;
}

function putClass(element, name) {
  if (element.className !== name) element.className = name;
}

function putAttribute(element, name, given) {
  if (element.getAttribute(name) !== given) element.setAttribute(name, given);
}

function show(element, is) {
  if (element.hasAttribute('hidden') === is) element.toggleAttribute('hidden', !is);
}

// Makes children anew where what they show is something else.
function putAll(element, key, build) {
  const wanted = JSON.stringify(key);
  if (element.key === wanted) return;
  element.key = wanted;
  // Whoever stands on a button in it stands there afterwards.
  const held = document.activeElement?.dataset?.hold;
  const within = element.contains(document.activeElement);
  element.replaceChildren(...build());
  if (within && held) element.querySelector(`[data-hold="${CSS.escape(held)}"]`)?.focus();
}

function drawn(name, members = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, given] of Object.entries(members)) made.setAttribute(key, given);
  made.append(...children);
  return made;
}

const POINTS = 60;
function graph(classes) {
  const path = drawn('path');
  const made = drawn('svg', { class: classes, viewBox: `0 0 ${POINTS - 1} 20`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, path);
  made.path = path;
  return made;
}

// Draws the last values, the newest at the right; `top` is the value at the upper edge at least.
function draw(svg, values, top = 0) {
  const highest = Math.max(top, ...values, 1e-9);
  const first = POINTS - values.length;
  const point = (number, at) => `${at ? 'L' : 'M'}${first + at} ${(19 - 18 * (number / highest)).toFixed(1)}`;
  const line = values.map(point).join('');
  if (svg.line !== line) {
    svg.line = line;
    svg.path.setAttribute('d', line || 'M0 19');
  }
}

function bar(used, reserved) {
  const svg = drawn('svg', { class: 'bar', viewBox: '0 0 100 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    drawn('rect', { class: 'back', width: 100, height: 8 }), drawn('rect', { class: 'used', width: (used * 100).toFixed(1), height: 8 }));
  if (reserved !== undefined) svg.append(drawn('rect', { class: 'reserved', x: .5, y: .5, width: Math.max(0, reserved * 100 - 1).toFixed(1), height: 7 }));
  return svg;
}

let toldTimer = null;
function tell(text) {
  place();
  $('told').textContent = text;
  clearTimeout(toldTimer);
  toldTimer = setTimeout(() => { $('told').textContent = ''; }, 6000);
}

// Faults of a call, as the node tells them, each on a line.
function faultText(fault) {
  const lines = fault.errors?.map((error) => `${clean(error.field)}: ${clean(error.message)}`) || [];
  const first = clean(fault.message);
  return (lines.length ? [`The node refuses it (${clean(fault.code || fault.status)}):`, ...lines] : [first]).join('\n');
}
