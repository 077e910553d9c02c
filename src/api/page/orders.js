// Questions before anything is changed, and the orders of a container.
const ORDERS = [
  { name: 'start', text: 'Start', fits: (one) => one.status === 'stopped' || one.status === 'failed' || one.status === 'stopping',
    asks: (one) => `${one.name} is started, and stays so over reboots.` },
  { name: 'stop', text: 'Stop', fits: (one) => one.status !== 'stopped', danger: true,
    asks: (one) => `${one.name} is stopped, and stays so over reboots, until somebody starts it.${one.owner === 'chas' ? ' It is of CHaS: a newer set that lists it starts it again.' : ''}` },
  { name: 'restart', text: 'Restart', fits: (one) => one.status !== 'stopped', danger: true,
    asks: (one) => `${one.name} is stopped, and started at once.` },
  { name: 'remove', text: 'Remove', fits: (one) => one.status !== 'removing', danger: true,
    asks: (one) => `${one.name} is stopped and removed. With it goes what it wrote outside of its volumes, all of its output, and its history with the way back.${kept(one)}${one.owner === 'chas' ? ' It is of CHaS: a newer set that lists it makes it again, without any of that.' : ' Nothing makes it again.'}` },
];

// Volumes that outlive their container.
function kept(one) {
  const names = (one.spec?.volumes || []).map((mount) => mount.volume).filter(Boolean);
  return names.length ? ` Its named volumes stay: ${names.join(', ')}.` : '';
}

// Asks, does, and answers whether it was done. A fault stays in the question, with the way to try again.
function question({ title, text, yes, danger, does }) {
  const dialog = $('question');
  const fault = $('question-fault');
  put($('question-title'), title);
  put($('question-text'), text);
  put($('question-yes'), yes);
  putClass($('question-yes'), danger ? 'danger' : 'first');
  show(fault, false);
  $('question-yes').disabled = false;
  return new Promise((resolve) => {
    let done = false;
    const sent = (is) => { $('question-no').disabled = is; $('question-yes').disabled = is; dialog.oncancel = (event) => { if (is) event.preventDefault(); }; };
    sent(false);
    $('question-no').onclick = () => dialog.close();
    dialog.onclose = () => resolve(done);
    $('question-yes').onclick = async () => {
      sent(true);
      show(fault, false);
      try {
        await does();
        sent(false);
        done = true;
        dialog.close();
      } catch (error) {
        heardFault(error);
        put(fault, faultText(error));
        show(fault, true);
        sent(false);
      }
    };
    dialog.showModal();
    $('question-no').focus();
  });
}

function orderButtons(container) {
  const allowed = may('stop');
  const made = ORDERS.map((order) => {
    const one = button(`${order.text}…`, () => giveOrder(order, container.id));
    one.dataset.hold = order.name;
    one.disabled = !allowed || !order.fits(container);
    return one;
  });
  const back = button('Roll back…', () => rollBack(container.id));
  back.dataset.hold = 'rollback';
  back.disabled = !allowed || !(container.generation > 1);
  const change = button('Change…', () => openDeploy(state.containers.get(container.id)));
  change.dataset.hold = 'change';
  change.disabled = !allowed;
  return [...made, back, change];
}

// Gives an order about the container as it is when the question is asked, which is named by its tag: made
// again because its answer was lost, it is not carried out twice, and a change that comes between is seen first.
async function giveOrder(order, id) {
  const now = await call('show', { id }).catch((fault) => { heardFault(fault); tell(faultText(fault)); });
  if (!now) return;
  const container = now.json;
  await question({
    title: `${order.text} ${clean(container.name)}?`, text: clean(order.asks(container)), yes: order.text, danger: order.danger,
    does: async () => {
      await ask(order.name, { id, headers: { 'If-Match': now.etag } });
      tell(`${order.text}: the order for ${clean(container.name)} is stored.`);
      dirty.add(id);
      listWork.soon();
    },
  });
}

// Goes back to a generation, or to the last good one. What is there now is named by its tag: another
// change that comes between is not undone.
async function rollBack(id, generation) {
  const now = await call('show', { id }).catch((fault) => { heardFault(fault); tell(faultText(fault)); });
  if (!now) return;
  const to = generation === undefined ? 'the last generation that was good' : `generation ${generation}`;
  const key = once();
  await question({
    title: `Roll back ${clean(now.json.name)}?`,
    text: `It runs generation ${now.json.generation} now, and goes back to ${to}. The body of that becomes a generation of its own; values and image are those of then.`,
    yes: 'Roll back', danger: true,
    does: async () => {
      const query = generation === undefined ? {} : { generation };
      const back = await ask('rollback', { id, query, headers: { ...key, 'If-Match': now.etag } });
      tell(`${clean(back.name)} goes back, as generation ${back.generation}.`);
      dirty.add(id);
      listWork.soon();
      detailSoon();
    },
  });
}
