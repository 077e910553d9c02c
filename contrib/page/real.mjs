// The page on a node with real containers: from the first deploy to the way back from one that was wrong.
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { readFileSync, openSync, writeFileSync } from 'node:fs';
import { check, end, has, launch, look, open, tabTo, text } from './browser.mjs';

const { URL: url, IMAGE: image, SETS: sets, ADMIN, READ, DEPLOY, AGENT, NODE_DIR } = process.env;
const secrets = [ADMIN, READ, DEPLOY];
const browser = await launch();

async function signIn(page, token) {
  await page.locator('#token').waitFor();
  await page.keyboard.type(token);
  await page.keyboard.press('Enter');
}

async function signInAgain(page, token) {
  await page.locator('#again-token').fill(token);
  await page.keyboard.press('Enter');
}

async function api(method, path, body) {
  const headers = { authorization: `Bearer ${ADMIN}`, 'content-type': 'application/json' };
  return fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
}

const good = {
  name: 'web-1', image, exposed_ports: [{ container: 80 }], labels: { team: 'web' }, environment: { PASSWORD: 'hunter2' },
  command: ['/bin/sh', '-c', 'n=0; while :; do n=$((n+1)); echo "tick $n"; /bin/busybox sleep 0.5; done'],
};
const broken = { ...good, command: ['/bin/sh', '-c', 'echo "cannot open /data/db: no such file" >&2; exit 3'] };

// Signed out: a wrong token says so, and stays no place.
const page = await open(browser, url, { secrets });
await has(page, '#door', 'Token');
await look(page, 'door');
await signIn(page, 'a-wrong-token');
await has(page, '#door-fault', 'no valid token');
await look(page, 'door-refused');

await signIn(page, ADMIN);
await has(page, '#wrong-title', 'Nothing is wrong');
await has(page, '#node-name', 'quickstart');
await has(page, '#who', 'admin');
await has(page, '#glance', 'reachable');
await look(page, 'empty');

// A node that takes nothing new is not told to be well without a word of it.
await api('POST', '/node/cordon');
await has(page, '#wrong-title', 'The node is cordoned by token');
await look(page, 'cordoned');
await api('POST', '/node/uncordon');
await page.waitForFunction(() => !document.getElementById('wrong-title').textContent.includes('cordoned'), null, { timeout: 20_000 });

// Deploys by the keyboard alone: a body with faults first, then the right one.
await tabTo(page, '#deploy-open');
await page.keyboard.press('Enter');
await page.locator('#deploy-body').waitFor();
check(await page.evaluate(() => document.activeElement.id) === 'deploy-body', 'the body has no focus');
await page.keyboard.insertText(JSON.stringify({ name: 'Web 1', imagee: image, resources: { memory: '1 potato' } }, null, 2));
await tabTo(page, '#deploy-check');
await page.keyboard.press('Enter');
await has(page, '#deploy-result', 'imagee');
await has(page, '#deploy-result', 'resources.memory');
await look(page, 'deploy-faults');
await page.locator('#deploy-body').fill(JSON.stringify(good, null, 2));
check(await page.locator('#deploy-go').isDisabled(), 'what was not looked at may be deployed');
await tabTo(page, '#deploy-check');
await page.keyboard.press('Enter');
await has(page, '#deploy-result', 'would be a new container');
check((await api('GET', '/containers/web-1')).status === 404, 'the dry run has deployed it');
await look(page, 'deploy-planned');
await tabTo(page, '#deploy-go');
await page.keyboard.press('Enter');

// It runs, and its output follows.
await has(page, '#detail-status', 'running', 60_000);
await has(page, '.logs', 'tick 3');
const lines = async () => Number((await text(page, '.logs div:last-child')).match(/tick (\d+)/)?.[1]);
const before = await lines();
await page.waitForFunction((last) => Number(document.querySelector('.logs').lastChild.textContent.match(/tick (\d+)/)?.[1]) > last + 2, before);
await has(page, '#detail-graphs', 'CPU', 15_000);
await page.waitForTimeout(6000);
await look(page, 'running');
check(!(await page.content()).includes('hunter2'), 'a value of the environment is in the page');
for (const tab of ['events', 'history', 'why', 'body']) {
  await tabTo(page, '[role=tab][aria-selected=true]');
  await page.keyboard.press('ArrowRight');
  await has(page, `#tab-${tab}[aria-selected=true]`, '');
  await has(page, '#detail-panel', { events: 'step finished', history: 'Generation 1, now', why: 'Next step', body: 'Digest' }[tab]);
  await look(page, `detail-${tab}`);
}
await page.keyboard.press('Escape');
await page.locator('#detail').waitFor({ state: 'hidden' });
await has(page, '#list', '→ 80/tcp');
await page.waitForTimeout(6000);
await look(page, 'one-runs');

// A change that breaks it: shown as a difference, deployed, and found in a glance.
const row = page.locator('#list button', { hasText: 'web-1' });
await row.click();
await page.locator('#detail-orders button', { hasText: 'Change' }).click();
await has(page, '#deploy-title', 'Change web-1');
await page.locator('#deploy-body').fill(JSON.stringify(broken));
await page.locator('#deploy-check').click();
await has(page, '#deploy-result', 'cannot open /data/db');
await look(page, 'deploy-change');
await page.locator('#tab-logs').evaluate((tab) => tab.click());
await page.locator('#deploy-go').click();
await page.locator('#deploy').waitFor({ state: 'hidden' });
await has(page, '#detail-status', 'restarting', 60_000);
await has(page, '#detail-why', 'What helps');
await has(page, '.logs', 'cannot open /data/db');
await look(page, 'broken-detail');
await page.keyboard.press('Escape');
await has(page, '#wrong-title', 'Wrong: 1 container');
await has(page, '#wrong-list', 'exit code 3');
await page.waitForTimeout(500);
await look(page, 'broken');

// Back to what was good, by its history, with a question first.
await page.locator('#wrong-list button').first().click();
await page.locator('#tab-history').click();
await has(page, '.diff .before', 'tick');
await look(page, 'broken-history');
await page.locator('#detail-panel button', { hasText: 'Go back to it' }).click();
await has(page, '#question', 'goes back to generation 1');
check(await page.evaluate(() => document.activeElement.id) === 'question-no', 'the question does not begin with no');
await look(page, 'question');
await page.keyboard.press('Escape');
await page.waitForTimeout(500);
check((await (await api('GET', '/containers/web-1')).json()).generation === 2, 'a question that was left has changed something');
await page.locator('#detail-orders button', { hasText: 'Roll back' }).click();
await tabTo(page, '#question-yes');
await page.keyboard.press('Enter');
await has(page, '#detail-status', 'running', 60_000);
await has(page, '#detail-panel', 'Generation 3, now');
await look(page, 'rolled-back');

// Stop, and start.
await page.locator('#detail-orders button', { hasText: 'Stop' }).click();
await page.locator('#question-yes').click();
await has(page, '#detail-status', 'stopped', 60_000);
check(await page.locator('#detail-orders button', { hasText: 'Stop' }).isDisabled(), 'what is stopped may be stopped');
await page.locator('#detail-orders button', { hasText: /^Start/ }).click();
await page.locator('#question-yes').click();
await has(page, '#detail-status', 'running', 60_000);
await page.keyboard.press('Escape');
await has(page, '#wrong-title', 'Nothing is wrong');

// An order that was sent, and whose answer is lost, is not carried out twice.
await row.click();
await has(page, '#detail-status', 'running', 60_000);
await page.locator('#detail-orders button', { hasText: 'Restart' }).click();
let lost = 0;
await page.route('**/restart', async (route) => {
  lost += 1;
  if (lost > 1) { await route.continue(); return; }
  await route.fetch();
  await route.abort();
});
await page.locator('#question-yes').click();
await has(page, '#question-fault', 'does not answer', 30_000);
await page.waitForTimeout(4000);
await page.locator('#question-yes').click();
await has(page, '#question-fault', 'changed', 30_000);
await look(page, 'restarted-once');
await page.keyboard.press('Escape');
await page.unroute('**/restart');
await has(page, '#detail-status', 'running', 60_000);
await page.keyboard.press('Escape');

// Removed, with a question that names what is lost and what stays.
await api('POST', '/containers/deploy?wait=running', { name: 'web-gone', image, command: ['/bin/busybox', 'sleep', '1000'], stop: { timeout: '0s' }, volumes: [{ volume: 'kept-data', path: '/data' }] });
await page.locator('#list button', { hasText: 'web-gone' }).click();
await page.locator('#detail-orders button', { hasText: 'Remove' }).click();
await has(page, '#question', 'Its named volumes stay: kept-data');
await look(page, 'remove-question');
await page.locator('#question-yes').click();
await page.locator('#detail').waitFor({ state: 'hidden', timeout: 60_000 });
check((await api('GET', '/containers/web-gone')).status === 404, 'what was removed is there');
await api('DELETE', '/volumes/kept-data');

// Output and labels that would be more than text.
const evil = '<img src=x onerror="globalThis.taken=1"><script>globalThis.taken=1</script>';
await api('POST', '/containers/deploy?wait=running', {
  name: 'web-evil', image, labels: { evil }, environment: { evil },
  command: ['/bin/sh', '-c', `printf '%s\\n' '${evil}'; printf '\\033[31mred\\033[0m \\342\\200\\256nrut\\n'; printf 'a\\rb\\033]0;title\\007\\n\\033]hidden\\n'; /bin/busybox sleep 1000`],
});
await page.locator('#list button', { hasText: 'web-evil' }).click();
await page.locator('#tab-logs').click();
await has(page, '.logs', '<img src=x onerror');
await has(page, '.logs', 'red ·nrut');
await has(page, '.logs', '·]hidden');
for (const tab of ['history', 'why', 'body']) await page.locator(`#tab-${tab}`).click().then(() => page.waitForTimeout(400));
check(await page.evaluate(() => globalThis.taken === undefined && !document.querySelector('img, iframe, object') && document.scripts.length === 1), 'a text became more than text');
await page.keyboard.press('Escape');

// An image that is not there: the reason and the remedy stand on top.
await api('POST', '/containers/deploy', { name: 'web-lost', image: image.replace('app:latest', 'no-such-app:1') });
await has(page, '#wrong-list', 'ImageNotFound', 30_000);
await has(page, '#wrong-list', 'What helps');
await look(page, 'image-lost');
await api('DELETE', '/containers/web-lost?wait=removed');
await api('DELETE', '/containers/web-evil?wait=removed');
await has(page, '#wrong-title', 'Nothing is wrong', 30_000);

// Roles: who may only look is told so; so is who has to do with some names alone.
const watcher = await open(browser, url, { secrets });
await signIn(watcher, READ);
await has(watcher, '#who', 'client:watcher: read');
check(await watcher.locator('#deploy-open').isDisabled(), 'a reader may deploy');
await watcher.locator('#list button', { hasText: 'web-1' }).click();
await has(watcher, '#detail-role', 'Your role, read, may look and not order');
check(await watcher.locator('#detail-orders button:enabled').count() === 0, 'a reader has orders to give');
await has(watcher, '.logs', 'tick');
await look(watcher, 'reader');
await watcher.context().close();
const builder = await open(browser, url, { secrets });
await signIn(builder, DEPLOY);
await has(builder, '#who', 'client:builder: deploy, for web-*');
await builder.locator('#deploy-open').click();
await builder.locator('#deploy-body').fill(JSON.stringify({ ...good, name: 'db' }));
await builder.locator('#deploy-check').click();
await has(builder, '#deploy-result', 'web-* only');
await builder.context().close();

// What CHaS would end waits for who may confirm it.
const listed = (names) => writeFileSync(sets, names.length ? `containers:\n${names.map((name) => `  - {name: ${name}, image: "${image}", command: [/bin/busybox, sleep, "10000"], stop: {timeout: 1s}}\n`).join('')}` : 'containers: []\n');
listed(['set-1', 'set-2', 'set-3', 'set-4']);
await has(page, '#list-count', '5', 60_000);
for (const name of ['set-1', 'set-2', 'set-3', 'set-4']) check((await api('GET', `/containers/${name}?wait=applied`)).ok, `${name} does not run`);
listed([]);
await has(page, '#held-text', 'set-1', 60_000);
await look(page, 'held');
await page.locator('#held-confirm').click();
await has(page, '#question', 'End or change 4 containers?');
await look(page, 'held-question');
await page.locator('#question-yes').click();
await page.locator('#held').waitFor({ state: 'hidden', timeout: 30_000 });
await page.waitForFunction(() => document.querySelectorAll('#list li').length === 1, null, { timeout: 60_000 });

// The agent is killed: the page says that it stands still, and goes on by itself.
await page.locator('#list button', { hasText: 'web-1' }).click();
await page.locator('#tab-logs').click();
await has(page, '.logs', 'tick');
process.kill(Number(readFileSync(`${NODE_DIR}/agent.pid`, 'utf8').split(' ')[0]), 'SIGKILL');
await has(page, '.logs', 'the node does not answer', 30_000);
await page.keyboard.press('Escape');
await has(page, '#stale', 'has not answered since', 30_000);
await look(page, 'away');
const log = openSync(`${NODE_DIR}/agent.log`, 'a');
const agent = spawn(AGENT, ['--config', `${NODE_DIR}/node-agent.yaml`], { detached: true, stdio: ['ignore', log, log] });
agent.unref();
const began = readFileSync(`/proc/${agent.pid}/stat`, 'utf8').split(' ')[21];
writeFileSync(`${NODE_DIR}/agent.pid`, `${agent.pid} ${began}\n`);
await page.locator('#stale').waitFor({ state: 'hidden', timeout: 60_000 });
await has(page, '#events', 'agent started', 30_000);
await has(page, '#wrong-title', 'Nothing is wrong', 30_000);
await has(page, '#events-state', 'live', 30_000);

// A link of another site leads to the page, and an address that names a container to that.
const elsewhere = createServer((_, answer) => {
  answer.writeHead(200, { 'content-type': 'text/html' });
  answer.end(`<a href="${url}/">the node</a><iframe src="${url}/"></iframe>`);
});
await new Promise((resolve) => elsewhere.listen(0, '127.0.0.2', resolve));
const visit = await (await browser.newContext()).newPage();
await visit.goto(`http://127.0.0.2:${elsewhere.address().port}/`);
await visit.waitForTimeout(500);
check(!(await visit.frames()[1].content()).includes('door-form'), 'another site frames the page');
await visit.locator('a').click();
await has(visit, '#door', 'Token');
const tried = await visit.evaluate((path) => fetch(path).then((answer) => answer.status), '/containers');
check(tried === 401, `without a token: ${tried}`);
await visit.context().close();
elsewhere.close();
const id = (await (await api('GET', '/containers/web-1')).json()).id;
await page.goto(`${url}/#${id}`);
await page.reload();
await has(page, '#detail-name', 'web-1');
await page.keyboard.press('Escape');

// A token that is taken back counts no more at once; the door says why, and what was typed is kept.
const second = await open(browser, url, { secrets });
await signIn(second, DEPLOY);
await has(second, '#who', 'client:builder');
await second.locator('#deploy-open').click();
await second.locator('#deploy-body').fill('{"name": "web-typed"}');
const clients = readFileSync(`${NODE_DIR}/clients.yaml`, 'utf8');
writeFileSync(`${NODE_DIR}/clients.yaml`, clients.split('\n').filter((line) => !line.includes('builder')).join('\n'));
await has(second, '#again-why', 'You were signed out', 60_000);
check(await second.evaluate(() => sessionStorage.length === 0), 'a token that counts no more is kept');
await look(second, 'again');
await second.keyboard.press('Escape');
await signInAgain(second, 'a-wrong-token');
await has(second, '#again-why', 'no valid token');
await signInAgain(second, READ);
await second.locator('#again').waitFor({ state: 'hidden' });
check(await second.locator('#deploy-body').inputValue() === '{"name": "web-typed"}', 'what was typed is gone');
await has(second, '#who', 'client:watcher: read');
await second.locator('#deploy-close').click();
check(await second.locator('#deploy-open').isDisabled(), 'a role that may not deploy may deploy');
await second.context().close();

// Signed out, nothing is kept.
await page.locator('#leave').click();
await has(page, '#door', 'Token');
check(await page.evaluate(() => sessionStorage.length === 0 && document.cookie === ''), 'something is kept');
await api('DELETE', '/containers/web-1?wait=removed');
await end(browser, 'the real node: all as it should be');
