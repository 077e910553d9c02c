// Deploys a pasted body: first what would happen, then, for this very text, the deploy.
let checkedBody = null;
let checkedKey = null;
// Tag of what is changed, as it was when its body was shown or the change looked at: another change that
// comes between is not undone.
let base = null;
let checkedTag = null;
const EXAMPLE = '{\n  "name": "web",\n  "image": "nginx:latest",\n  "exposed_ports": [{"container": 80}]\n}\n';

async function openDeploy(container) {
  base = null;
  let body = '';
  if (container) {
    const shown = await heard(call('show', { id: container.id }));
    if (!shown) { tell(lastFault); return; }
    const now = shown.json;
    base = { name: now.name, tag: shown.etag };
    body = `${JSON.stringify(now.spec, null, 2)}\n`;
    if (!('name' in now.spec)) body = `${JSON.stringify({ name: now.name, ...now.spec }, null, 2)}\n`;
  }
  put($('deploy-title'), container ? `Change ${clean(container.name)}` : 'Deploy a container');
  $('deploy-body').value = body;
  $('deploy-body').placeholder = EXAMPLE;
  const hidden = container && /: null/.test(body);
  $('deploy-result').replaceChildren(...(hidden ? [make('p.quiet', {}, 'Values are not shown (null): write each again, or the node refuses the body.')] : []));
  forgetCheck();
  $('deploy').showModal();
  $('deploy-body').focus();
}

function forgetCheck() {
  checkedBody = null;
  $('deploy-go').disabled = true;
  show($('deploy-hint'), true);
}

async function checkDeploy() {
  const body = $('deploy-body').value;
  forgetCheck();
  $('deploy-check').disabled = true;
  try {
    const planned = await ask('deploy', { body, query: { dry_run: true } });
    const now = await call('show', { id: planned.container.name }).catch((fault) => (fault.status === 404 ? null : Promise.reject(fault)));
    $('deploy-result').replaceChildren(...plannedItems(planned, now?.json));
    if ($('deploy-body').value === body) {
      checkedBody = body;
      checkedKey = once();
      checkedTag = base?.name === planned.container.name ? base.tag : now?.etag;
      $('deploy-go').disabled = !planned.changed;
      show($('deploy-hint'), false);
    }
  } catch (fault) {
    deployFault(fault);
  } finally {
    $('deploy-check').disabled = false;
  }
}

function deployFault(fault) {
  heardFault(fault);
  $('deploy-result').replaceChildren(make('p.fault', { role: 'alert' }, faultText(fault)));
}

function plannedItems({ changed: changes, plan, container }, now) {
  const isThere = now && now.owner !== 'unmanaged' && now.name === container.name;
  if (!changes) return [make('p', {}, `Nothing would change: ${clean(container.name)} is asked for so already.`)];
  const different = isThere ? differences(now.spec, container.spec) : [];
  const title = isThere ? `${clean(container.name)} would be changed, from generation ${now.generation}:` : `${clean(container.name)} would be a new container.`;
  const steps = plan.map((step) => make('li', {}, make('b', {}, spaced(step.action)), ': ', any(step.why)));
  return [make('h3', {}, title),
    different.length ? diffTable(different) : isThere ? make('p.quiet', {}, 'What differs are values, which are not shown.') : make('p', {}, any(container.image)),
    make('h3', {}, 'The steps'), make('ol', {}, ...steps)];
}

function diffTable(changes) {
  const lines = changes.map((change) => make('tr', {}, make('th', { scope: 'row' }, any(change.field)),
    change.hidden !== undefined ? make('td', { colspan: 2 }, `a value that is not shown (${clean(value(change.hidden), 100)})`) : null,
    change.hidden === undefined ? make('td.before', {}, any(clean(value(change.before), 1000))) : null,
    change.hidden === undefined ? make('td.after', {}, any(clean(value(change.after), 1000))) : null));
  return make('table.diff', {}, make('thead', {}, make('tr', {}, ...['Field', 'Before', 'After'].map((head) => make('th', { scope: 'col' }, head)))),
    make('tbody', {}, ...lines));
}

async function goDeploy() {
  const body = $('deploy-body').value;
  if (body !== checkedBody) return;
  $('deploy-go').disabled = true;
  try {
    const made = await ask('deploy', { body, headers: { ...checkedKey, ...(checkedTag ? { 'If-Match': checkedTag } : {}) } });
    $('deploy').close();
    tell(`${clean(made.name)} is stored, as generation ${made.generation}.`);
    take(made);
    changed();
    listWork.soon();
    if (!$('detail').open) openDetail(made.id);
  } catch (fault) {
    $('deploy-go').disabled = false;
    deployFault(fault);
  }
}
