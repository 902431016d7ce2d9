// Monaco in place of every <textarea data-editor>, which stays the form's field and works alone without scripts.

let loading = null;

function load(base) {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = `${base}/loader.js`;
    script.onerror = reject;
    script.onload = () => {
      window.require.config({ paths: { vs: new URL(base, location.href).href } });
      window.require(['vs/editor/editor.main'], () => resolve(window.monaco), reject);
    };
    document.head.append(script);
  }).then(async (monaco) => {
    await prepare(monaco);
    return monaco;
  });
  return loading;
}

const theme = () => (isDark() ? 'millrace-dark' : 'millrace-light');

// Completion for what a script finds in the jail; and colours of the console, with comments that can be read.
async function prepare(monaco) {
  monaco.editor.defineTheme('millrace-light', {
    base: 'vs', inherit: true, colors: { 'editor.background': '#ffffff' }, rules: [{ token: 'comment', foreground: '3d6b3d' }],
  });
  monaco.editor.defineTheme('millrace-dark', {
    base: 'vs-dark', inherit: true, colors: { 'editor.background': '#141c26' }, rules: [{ token: 'comment', foreground: '93bd8e' }],
  });
  const { javascriptDefaults, ScriptTarget } = monaco.typescript ?? monaco.languages.typescript;
  const found = await fetch(new URL('./sdk.d.ts', import.meta.url));
  javascriptDefaults.setCompilerOptions({ target: ScriptTarget.ES2022 ?? ScriptTarget.ESNext, allowNonTsExtensions: true, checkJs: false, lib: ['es2022'] });
  javascriptDefaults.setDiagnosticsOptions({ noSemanticValidation: true, noSyntaxValidation: false });
  javascriptDefaults.addExtraLib(await found.text(), 'file:///sdk.d.ts');
  monaco.languages.registerCompletionItemProvider('python', { provideCompletionItems: (model, position) => inPython(monaco, model, position) });
}

const PYTHON = {
  '': ['context', 'sdk', 'events'],
  context: ['tenant_id', 'user_id', 'organization_id', 'script_id', 'execution_id', 'input', 'trigger'],
  sdk: ['http', 'db', 'cache', 'log'],
  'sdk.http': ['get', 'post', 'put', 'delete', 'patch'],
  'sdk.db': ['query', 'query_one', 'execute', 'transaction', 'source'],
  'sdk.cache': ['get', 'set', 'delete', 'exists', 'increment', 'expire'],
  'sdk.log': ['debug', 'info', 'warn', 'error'],
  events: ['publish'],
};

function inPython(monaco, model, position) {
  const before = model.getLineContent(position.lineNumber).slice(0, position.column - 1);
  const [, owner = ''] = before.match(/([\w.]+)\.\w*$/) ?? [];
  const word = model.getWordUntilPosition(position);
  const range = {
    startLineNumber: position.lineNumber, endLineNumber: position.lineNumber,
    startColumn: word.startColumn, endColumn: word.endColumn,
  };
  const kind = monaco.languages.CompletionItemKind.Property;
  return { suggestions: (PYTHON[owner] ?? []).map((label) => ({ label, kind, insertText: label, range })) };
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

async function replace(area) {
  area.dataset.ready = '';
  const monaco = await load(area.dataset.monaco);
  const box = document.createElement('div');
  box.className = `editor ${area.dataset.editor}`;
  area.before(box);
  area.hidden = true;
  const label = document.querySelector(`label[for="${area.id}"]`);
  const editor = monaco.editor.create(box, {
    value: area.value,
    language: area.dataset.language,
    readOnly: area.readOnly,
    ariaLabel: label?.textContent.trim() || area.getAttribute('aria-label') || '',
    theme: theme(),
    automaticLayout: true,
    minimap: { enabled: false },
    fontSize: 13.5,
    tabSize: 2,
    scrollBeyondLastLine: false,
    fixedOverflowWidgets: true,
    padding: { top: 10, bottom: 10 },
  });
  if (area.hasAttribute('aria-describedby')) box.querySelector('textarea')?.setAttribute('aria-describedby', area.getAttribute('aria-describedby'));
  label?.addEventListener('click', () => editor.focus());
  editor.onDidChangeModelContent(() => { area.value = editor.getValue(); });
  area.addEventListener('language', (event) => monaco.editor.setModelLanguage(editor.getModel(), event.detail));
  mark(monaco, editor, area);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => monaco.editor.setTheme(theme()));
}

// What the checks found, at its place.
function mark(monaco, editor, area) {
  const findings = JSON.parse(area.dataset.findings ?? '[]');
  monaco.editor.setModelMarkers(editor.getModel(), 'millrace', findings.map(({ line, column, message }) => ({
    severity: monaco.MarkerSeverity.Error, message,
    startLineNumber: line, startColumn: column, endLineNumber: line, endColumn: column + 1,
  })));
  if (findings.length > 0) editor.revealLineInCenter(findings[0].line);
}

export function open(root) {
  root.querySelectorAll('textarea[data-editor]:not([data-ready])').forEach((area) => replace(area));
}

// The source's language follows the runtime that is chosen.
document.addEventListener('change', (event) => {
  const language = event.target.selectedOptions?.[0]?.dataset.language;
  if (language) event.target.form.querySelectorAll('textarea[data-editor][name="Source"]').forEach((area) => area.dispatchEvent(new CustomEvent('language', { detail: language })));
});
