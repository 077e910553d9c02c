// The page on a node of 500 containers that are played: what it costs to show them, and to follow 50 events a second.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { check, end, has, launch, look, open } from './browser.mjs';

const COUNT = 500;
const TOKEN = 'played-token';
const tokens = new Set([TOKEN]);
const FIRST_MS_MAX = 10_000;
const TASK_MS_MAX = 500;
const ROOM = process.argv[2];

// The page as the agent makes it.
const source = readFileSync(`${ROOM}/page.rs`, 'utf8');
const part = (name) => readFileSync(`${ROOM}/page/${name}`, 'utf8');
const script = [...source.matchAll(/include_str!\("page\/(\w+\.js)"\)/g)].map((found) => part(found[1])).join('');
const html = part('page.html').replace('/* style */', () => part('style.css')).replace('/* script */', () => script);
const hash = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
const policy = `default-src 'none'; script-src ${hash(script)}; style-src ${hash(part('style.css'))}; connect-src 'self'; img-src data:; base-uri 'none'; `
  + "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const time = () => new Date().toISOString();
const containers = Array.from({ length: COUNT }, (_, at) => ({
  id: at.toString(16).padStart(12, '0'), name: `${['web', 'api', 'cache', 'queue'][at % 4]}-${String(at).padStart(3, '0')}`, image: `registry.example/team/app:${at % 7}`,
  ports: [{ host: 20000 + at, container: 80, protocol: 'tcp', host_ip: '0.0.0.0' }], owner: at % 3 ? 'push' : 'chas', generation: 2, revision: null, labels: { team: 'web' },
  created: time(), started: time(), status: 'running', reason: null, message: null, next_attempt: null, restart_count: 0, exit_code: null, ready: true, health: null, ip: '10.0.0.2',
}));
Object.assign(containers[17], { status: 'failed', reason: 'ImageNotFound', message: 'the registry does not have registry.example/team/app:3' });
Object.assign(containers[230], { status: 'restarting', reason: 'CrashLoop', message: 'exit code 1; tried again in 40 s', restart_count: 7 });

const asked = { list: 0, show: 0, logs: [] };
const readers = new Set();
readers.logs = new Set();
let number = 1000;
// What the health says beside that.
const played = {};
const answers = {
  '/whoami': () => ({ name: 'token', role: 'admin', names: null, expires: null, node: 'worker-many', version: '0.0.0' }),
  '/containers': () => { asked.list += 1; return { containers }; },
  '/health': () => ({ status: 'degraded', resources: { cpu_usage: 12, memory_usage: 40, disk_available: '50GB', container_count: COUNT - 2, disk_total_bytes: 1e11, disk_available_bytes: 5e10 },
    uptime: 86400, alarms: [], errors: [], containerd: { reachable: true, since: time(), error: null }, chas: null, ...played }),
  '/capacity': () => ({ cpu: { total: 16, reserved: 9.5, used: 3.2 }, memory: { total: 64 * 2 ** 30, reserved: 40 * 2 ** 30, used: 22 * 2 ** 30 }, containers: { total: 1000, reserved: COUNT, free: 500 } }),
  '/plan': () => ({ settled: true, blocked: null, containers: [], leftovers: [] }),
  '/stats': () => ({ containers: containers.map((one, at) => ({ id: one.id, name: one.name, time: time(), memory: { used_bytes: (1 + at) * 2 ** 20 * (1 + Math.random() / 10), limit_bytes: 2 ** 30 },
    cpu: { used_cores: Math.random() / 10, usage_seconds: Date.now() / 1e4 + Math.random() } })) }),
};

const server = createServer((request, answer) => {
  const path = new URL(request.url, 'http://played').pathname;
  if (path === '/') {
    answer.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'content-security-policy': policy, 'referrer-policy': 'no-referrer' });
    answer.end(html);
    return;
  }
  if (path === '/version') { answer.end('{}'); return; }
  const json = (status, body) => { answer.writeHead(status, { 'content-type': 'application/json' }); answer.end(JSON.stringify(body)); };
  if (!tokens.has(request.headers.authorization?.slice('Bearer '.length))) { json(401, { status: 401, code: 'Unauthorized', detail: 'the request bears no valid token' }); return; }
  if (path === '/events') {
    answer.writeHead(200, { 'content-type': 'text/event-stream' });
    answer.write(`: events follow\nid: ${number}\n\n`);
    readers.add(answer);
    answer.on('close', () => readers.delete(answer));
    return;
  }
  const [, , id, verb] = path.split('/');
  if (verb === 'logs') {
    asked.logs.push(new URL(request.url, 'http://played').searchParams.get('since'));
    answer.writeHead(200, { 'content-type': 'application/x-ndjson' });
    // One line, and then nothing: as a connection that is dead at its other end.
    if (asked.logs.length === 1) answer.write(`${JSON.stringify({ time: time(), stream: 'stdout', partial: false, line: 'the first line' })}\n`);
    else answer.write(`${JSON.stringify({ time: time(), stream: 'stdout', partial: false, line: `of answer ${asked.logs.length}` })}\n`);
    readers.logs.add(answer);
    answer.on('close', () => readers.logs.delete(answer));
    return;
  }
  const one = containers.find((container) => container.id === id);
  if (answers[path]) json(200, answers[path]());
  else if (one && verb === 'explain') json(200, { id, unblock: 'correct the name of the image, or push it to the registry', meaning: 'the image is not there' });
  else if (one && !verb) { asked.show += 1; json(200, { ...one, spec: { name: one.name, image: one.image } }); } else json(404, { status: 404, detail: 'no such path' });
});

function happen(one) {
  number += 1;
  const event = { id: number, time: time(), kind: 'step_finished', container: { id: one.id, name: one.name, generation: 2 }, code: null, is_error: false, message: null, step: 'launch', took_ms: 120 };
  for (const reader of readers) reader.write(`id: ${number}\nevent: ${event.kind}\ndata: ${JSON.stringify(event)}\n\n`);
}

await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const browser = await launch();
const page = await open(browser, `http://127.0.0.1:${server.address().port}/`, { secrets: [TOKEN] });
await page.evaluate(() => {
  globalThis.tasks = [];
  new PerformanceObserver((list) => globalThis.tasks.push(...list.getEntries().map((entry) => Math.round(entry.duration)))).observe({ entryTypes: ['longtask'] });
});
const began = Date.now();
await page.fill('#token', TOKEN);
await page.keyboard.press('Enter');
await page.waitForFunction((count) => document.querySelectorAll('#list li').length === count, COUNT);
const first = Date.now() - began;
await has(page, '#wrong-title', 'Wrong: 2 containers');
await has(page, '#wrong-list', 'correct the name of the image');
await page.waitForTimeout(6000);

// One container changes: only its row is written.
const writes = () => page.evaluate(() => new Promise((resolve) => {
  const touched = new Set();
  let count = 0;
  const observer = new MutationObserver((seen) => seen.forEach((one) => {
    const item = (one.target.nodeType === 1 ? one.target : one.target.parentElement)?.closest('li');
    if (item && !one.target.closest?.('svg') && !item.querySelector('svg')?.contains(one.target)) { touched.add(item.id); count += 1; }
  }));
  observer.observe(document.getElementById('list'), { subtree: true, childList: true, characterData: true });
  setTimeout(() => { observer.disconnect(); resolve({ rows: [...touched], count }); }, 1500);
}));
asked.list = 0;
asked.show = 0;
// Between two looks at what is used, which every row shows.
await page.evaluate(() => new Promise((resolve) => {
  const observer = new MutationObserver(() => { observer.disconnect(); setTimeout(resolve, 300); });
  observer.observe(document.querySelector('#list li:nth-child(9) .spark path'), { attributes: true });
}));
const changing = writes();
Object.assign(containers[42], { status: 'unhealthy', reason: 'Unhealthy', message: 'GET /healthz: 500' });
happen(containers[42]);
const written = await changing;
check(written.rows.length === 1 && written.rows[0] === `row-${containers[42].id}`, `one event writes these rows: ${written.rows.slice(0, 5)} (${written.rows.length})`);
check(asked.list === 0 && asked.show === 1, `one event asks for ${asked.show} containers and ${asked.list} lists`);
await has(page, '#wrong-title', 'Wrong: 3 containers');

// Many change, all the time.
await page.evaluate(() => { globalThis.tasks = []; });
asked.list = 0;
const storm = setInterval(() => {
  const one = containers[Math.floor(Math.random() * COUNT)];
  one.restart_count += 1;
  happen(one);
}, 20);
await page.waitForTimeout(10_000);
clearInterval(storm);
const tasks = await page.evaluate(() => globalThis.tasks);
const longest = Math.max(0, ...tasks);
const rows = await page.locator('#events li').count();
check(rows <= 200, `${rows} events are shown`);
check(first < FIRST_MS_MAX, `the first list took ${first} ms`);
check(longest < TASK_MS_MAX, `with 50 events a second a task took ${longest} ms`);
check(asked.list < 45, `with 50 events a second ${asked.list} lists were asked for in 10 s`);
console.log(`500 containers: shown after ${first} ms; one event writes ${written.count} texts of ${written.rows.length} row; `
  + `in 10 s of 50 events a second ${tasks.length} tasks over 50 ms, the longest ${longest} ms, ${asked.list} lists asked for`);

// By arrows through the list, and a search.
await page.locator('#list li:not([hidden]) button').first().focus();
for (const key of ['ArrowDown', 'ArrowDown', 'End', 'Home', 'ArrowDown']) await page.keyboard.press(key);
const at = await page.evaluate(() => document.activeElement.closest('li') === document.querySelectorAll('#list li')[1]);
check(at, 'the arrows do not go through the list');
await page.fill('#filter', 'cache team=web');
check(await page.locator('#list li:not([hidden])').count() === COUNT / 4, 'the search finds something else');
await page.fill('#filter', '');
await look(page, 'many');

// Who closed the node, and what CHaS's set has that was not taken, is said.
const hour = new Date(Date.now() - 3_600_000).toISOString();
played.cordon = { cordoned: true, chas: false, operator: { by: 'uid:0', since: hour, drained_since: null }, drained: false, left: [], unsure: null };
played.chas = { reachable: true, since: hour, error: null, generation: 7, desired: { stale: false, fault: null }, pending_prune: [], conflicts: 1, rejected: 2, cordoned: false };
await has(page, '#wrong-title', 'The node is cordoned by uid:0 for 60 min: nothing new is started');
await has(page, '#glance', '2 rejected · 1 conflict');
Object.assign(played.cordon, { operator: { by: 'uid:0', since: hour, drained_since: hour }, left: [{ name: 'web-000', why: 'it stops', stays: false }, { name: 'web-001', why: 'not managed', stays: true }] });
await has(page, '#wrong-title', '1 container still runs');
await look(page, 'many-drained');
Object.assign(played, { cordon: null, chas: null });

// A token whose time is over: the page hides, keeps what was typed, and goes on with another one.
await page.locator('#deploy-open').click();
await page.locator('#deploy-body').fill('typed');
tokens.delete(TOKEN);
tokens.add('another-token');
await has(page, '#again-why', 'You were signed out', 30_000);
await look(page, 'many-again');
await page.keyboard.press('Escape');
await page.fill('#again-token', 'no-token');
await page.keyboard.press('Enter');
await has(page, '#again-why', 'no valid token');
await page.fill('#again-token', 'another-token');
await page.keyboard.press('Enter');
await page.locator('#again').waitFor({ state: 'hidden' });
check(await page.locator('#deploy-body').inputValue() === 'typed', 'what was typed is gone');
await page.locator('#deploy-close').click();
await has(page, '#events-state', 'live', 30_000);

// An output that stands still is asked for again from where it stood; nobody reads for a tab that nobody sees.
const other = await open(browser, `http://127.0.0.1:${server.address().port}/`, { secrets: ['another-token'] });
await other.clock.install();
await other.reload();
await other.fill('#token', 'another-token');
await other.keyboard.press('Enter');
await other.locator('#list button').first().click();
await has(other, '.logs', 'the first line');
await other.clock.fastForward(39_000);
check(asked.logs.length === 1, 'an output that may be alive is cut off');
for (let step = 0; step < 5; step += 1) await other.clock.fastForward(2000).then(() => new Promise((resolve) => setTimeout(resolve, 200)));
await has(other, '.logs', 'of answer 2');
check(asked.logs[0] === null && asked.logs[1] !== null, `it does not go on where it stood: ${asked.logs}`);
const lookAt = (hidden) => other.evaluate((is) => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => is });
  document.dispatchEvent(new Event('visibilitychange'));
}, hidden);
const lasting = () => readers.logs.size + readers.size;
check(lasting() === 3, `${lasting()} answers last, not three: events of two tabs, and an output`);
await lookAt(true);
for (let step = 0; step < 8; step += 1) {
  // Its answers are alive meanwhile.
  for (const reader of [...readers, ...readers.logs]) reader.write('\n');
  await new Promise((resolve) => setTimeout(resolve, 100));
  await other.clock.fastForward(10_000);
}
await new Promise((resolve) => setTimeout(resolve, 500));
check(lasting() === 1, `${lasting()} answers last for one tab that is seen`);
await lookAt(false);
for (let step = 0; step < 5; step += 1) await other.clock.fastForward(1000).then(() => new Promise((resolve) => setTimeout(resolve, 200)));
check(lasting() === 3, `${lasting()} answers last, where both tabs are seen again`);
await other.context().close();
server.closeAllConnections();
server.close();
await has(page, '#stale', 'has not answered since', 30_000);
await end(browser, 'the played node: all as it should be');
