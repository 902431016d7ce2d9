// What the console does in the browser besides HTMX: toasts, local times, confirmations, conditional fields, live logs.
// No build step: browsers load this file as it stands.

const words = JSON.parse(document.body.dataset.words);
const language = document.documentElement.lang || 'en';

export function toast(text, kind = 'success') {
  const box = document.createElement('div');
  box.className = `toast ${kind}`;
  box.textContent = text;
  document.getElementById('toasts').append(box);
  fade(box);
}

function fade(box) {
  setTimeout(() => box.remove(), box.classList.contains('error') ? 12000 : 6000);
}

document.querySelectorAll('#toasts .toast').forEach(fade);
document.body.addEventListener('toast', (event) => toast(event.detail.text, event.detail.kind));
document.body.addEventListener('htmx:sendError', () => toast(words.lost, 'error'));
document.body.addEventListener('htmx:responseError', (event) => {
  // Our own refusals bring their toast along.
  if (!event.detail.xhr.getResponseHeader('HX-Trigger')) toast(words.failed, 'error');
});

// A dialog whose form HTMX sent has done its work, unless a field of it was wrong: the words stand beside that. Other
// refusals come as toasts, which an open dialog would cover.
document.body.addEventListener('htmx:afterRequest', (event) => {
  const dialog = event.target.closest?.('dialog');
  if (!dialog || event.detail.xhr.status === 400) return;
  dialog.querySelectorAll('.error[role="alert"]').forEach((each) => each.replaceChildren());
  dialog.close();
});

// Times in the reader's own zone and language.
// Chromium does not know the Uzbek months and would write "2026 M11 30": these are dates in numbers, as people there
// write them, and as Russian has them too.
const isUzbek = language === 'uz';
const locale = isUzbek ? 'ru' : language;
const date = isUzbek ? { day: '2-digit', month: '2-digit' } : { day: 'numeric', month: 'short' };
const time = { hour: '2-digit', minute: '2-digit', second: '2-digit' };
const full = isUzbek ? { ...date, year: 'numeric', ...time } : { dateStyle: 'medium', timeStyle: 'medium' };
const clock = new Intl.DateTimeFormat(locale, full);
// Below charts there is less room; the days that usage is summed up by are those of UTC.
const forms = {
  hour: new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit' }),
  date: new Intl.DateTimeFormat(locale, date),
  day: new Intl.DateTimeFormat(locale, { ...date, timeZone: 'UTC' }),
};
function localise(root) {
  root.querySelectorAll('time[datetime]:not([data-local])').forEach((each) => {
    const moment = new Date(each.dateTime);
    if (Number.isNaN(moment.getTime())) return;
    each.title = each.textContent;
    each.textContent = (forms[each.dataset.form] ?? clock).format(moment);
    each.dataset.local = '';
  });
}

// A question before what can't be undone: on a form, a button, or what HTMX is about to send.
function ask(text) {
  const dialog = document.getElementById('confirm');
  document.getElementById('confirm-text').textContent = text || words.confirm;
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}
document.body.addEventListener('htmx:confirm', async (event) => {
  if (!event.detail.question) return;
  event.preventDefault();
  if (await ask(event.detail.question)) event.detail.issueRequest(true);
});
document.addEventListener('submit', async (event) => {
  const form = event.target;
  const text = event.submitter?.dataset.confirm ?? form.dataset.confirm;
  if (text === undefined || form.dataset.confirmed === 'yes') return;
  event.preventDefault();
  const { submitter } = event;
  if (!(await ask(text))) return;
  form.dataset.confirmed = 'yes';
  form.requestSubmit(submitter);
  delete form.dataset.confirmed; // the next time is another question
});

// A form goes out once, however often its button is pressed while the answer is awaited. HTMX sees to its own.
const SENT_MS = 10000;
document.addEventListener('submit', (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== 'post') return;
  if (form.dataset.sent !== undefined) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = '';
  setTimeout(() => { delete form.dataset.sent; }, SENT_MS);
});
// The page as it was, when somebody comes back to it.
window.addEventListener('pageshow', () => {
  document.querySelectorAll('form[data-sent]').forEach((form) => { delete form.dataset.sent; });
});

// Browsers have no clipboard for pages that came by plain HTTP from another machine: then the text is marked at least.
async function copied(part) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(part.textContent);
    return true;
  }
  window.getSelection().selectAllChildren(part);
  return document.execCommand('copy');
}

document.addEventListener('click', async (event) => {
  const target = event.target.closest('[data-toggle], [data-open], [data-close], [data-copy]');
  if (target === null) {
    document.querySelectorAll('details.who[open]').forEach((each) => {
      if (!each.contains(event.target)) each.open = false;
    });
    return;
  }
  if (target.dataset.toggle) {
    const open = document.querySelector(target.dataset.toggle).classList.toggle('open');
    target.setAttribute('aria-expanded', String(open));
  }
  if (target.dataset.open) document.querySelector(target.dataset.open).showModal();
  if (target.dataset.close !== undefined) target.closest('dialog').close();
  if (target.dataset.copy) {
    if (await copied(document.querySelector(target.dataset.copy))) toast(words.copied, 'info');
  }
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') {
    document.querySelectorAll('details.who[open]').forEach((each) => {
      each.open = false;
      each.querySelector('summary').focus();
    });
    const nav = document.getElementById('nav');
    if (nav?.classList.contains('open')) {
      nav.classList.remove('open');
      const button = document.querySelector('[data-toggle="#nav"]');
      button.setAttribute('aria-expanded', 'false');
      button.focus();
    }
  }
  // "/" goes to the search field, as people are used to.
  if (event.key === '/' && !event.target.closest('input, textarea, select, [contenteditable], .monaco-editor')) {
    const search = document.querySelector('input[type="search"]');
    if (search) {
      event.preventDefault();
      search.focus();
    }
  }
});

// Fields that belong to one choice: <div data-when="Type=http"> is there only while Type is http.
function arrange(form) {
  form.querySelectorAll('[data-when]').forEach((part) => {
    const [name, value] = part.dataset.when.split('=');
    const shown = value.split('|').includes(form.elements[name]?.value);
    part.hidden = !shown;
    part.querySelectorAll('input, select, textarea').forEach((each) => { each.disabled = !shown; });
  });
}
document.addEventListener('change', (event) => {
  if (event.target.form?.querySelector('[data-when]')) arrange(event.target.form);
});

// The log of an execution while it runs.
function follow(box) {
  let seen = 0;
  const source = new EventSource(box.dataset.stream);
  const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const note = (text) => {
    const row = document.createElement('div');
    row.className = 'SYSTEM';
    row.textContent = text;
    box.append(row);
  };
  source.addEventListener('log', (event) => {
    const line = JSON.parse(event.data);
    if (line.seq <= seen) return;
    seen = line.seq;
    const stays = atEnd();
    const row = document.createElement('div');
    row.className = line.level;
    const at = document.createElement('span');
    at.className = 'at';
    at.textContent = new Date(line.time).toLocaleTimeString(locale);
    row.append(at, line.text);
    box.append(row);
    while (box.childElementCount > 5000) box.firstElementChild.remove();
    if (stays) box.scrollTop = box.scrollHeight;
  });
  source.addEventListener('end', () => {
    source.close();
    note(words.ended);
    box.dispatchEvent(new CustomEvent('log-ended', { bubbles: true }));
    if (box.dataset.after) window.htmx.trigger(document.body, box.dataset.after);
  });
  // A stream that breaks off is asked for again by the browser; one that is refused, for there are too many, is not.
  source.addEventListener('error', () => {
    if (source.readyState === EventSource.CLOSED) note(words.refused);
  });
}

function begin(root) {
  localise(root);
  root.querySelectorAll('form').forEach(arrange);
  root.querySelectorAll('[data-stream]:not([data-following])').forEach((each) => {
    each.dataset.following = '';
    follow(each);
  });
  if (root.querySelector('[data-editor]:not([data-ready])')) {
    import('./editor.js').then(({ open }) => open(root));
  }
}
begin(document);
// On a phone the tab that is open may lie beyond the edge.
document.querySelector('.tabs [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
document.body.addEventListener('htmx:load', (event) => begin(event.detail.elt));
