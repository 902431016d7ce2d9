'use strict';
// Turns whatever a script threw into {name, message, stack}, with the script's own stack lines only.

const { inspect, types } = require('node:util');

const toText = Error.prototype.toString;
const { isNativeError } = types;
const { getPrototypeOf, hasOwn } = Object;
// Far more than is kept: the worker masks secrets and cuts after that, and knows by these sizes what is cut here.
// sandbox/protocol.py allows a little more.
const TEXT_CHARS = 272 * 1024;
const STACK_CHARS = 288 * 1024;
const STACK_LINES = 50;
const CAUSES = 3;
const CLASS_DEPTH = 20;
const CLASS_NAME = /^[A-Za-z_$][\w$]{0,99}$/;
const PLAIN = new Set(
  [Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError, AggregateError].map((each) => each.prototype),
);
const FRAME = /^\s+at (?:.* \()?(.+?):\d+:\d+\)?$/;

function cut(text, length = TEXT_CHARS) {
  return text.length > length ? `${text.slice(0, length)}… (${text.length - length} more characters)` : text;
}

function read(object, name) {
  try {
    const value = object[name];
    return typeof value === 'string' ? value : undefined;
  } catch {
    return undefined;
  }
}

function show(value) {
  try {
    return inspect(value, { depth: 2, breakLength: Infinity, customInspect: false, maxStringLength: Infinity });
  } catch {
    return 'a value that cannot be shown';
  }
}

function isErrorLike(value) {
  return value !== null && typeof value === 'object' && (isNativeError(value) || read(value, 'message') !== undefined);
}

/** The name of the error's class, if the error has no name but the one that every error inherits. */
function className(error) {
  try {
    let holder = error;
    for (let depth = 0; holder !== null && !hasOwn(holder, 'name') && depth < CLASS_DEPTH; depth += 1) holder = getPrototypeOf(holder);
    const { name } = error.constructor;
    return PLAIN.has(holder) && typeof name === 'string' && CLASS_NAME.test(name) ? name : undefined;
  } catch {
    return undefined;
  }
}

function nameOf(error) {
  return className(error) ?? (read(error, 'name') || 'Error');
}

function messageOf(error) {
  try {
    const { message } = error;
    if (message === undefined) return '';
    return typeof message === 'string' ? message : show(message).split('\n', 1)[0];
  } catch {
    return '';
  }
}

function ownLines(stack, files) {
  const lines = [];
  for (const line of stack.split('\n')) {
    const frame = FRAME.exec(line);
    if (frame && files.has(frame[1]) && lines.length < STACK_LINES) lines.push(line);
  }
  return lines;
}

// V8 puts the place of a syntax error above the name: "index.js:3", the line, a row of carets.
function syntaxPlace(stack, files) {
  const first = stack.split('\n', 3);
  const place = /^(.+):\d+$/.exec(first[0] ?? '');
  return place && files.has(place[1]) ? first : [];
}

function cause(value) {
  try {
    return value.cause;
  } catch {
    return undefined;
  }
}

/** Never throws, whatever `value` is. `files` is the Set of the script's file names. */
function describe(value, files, depth = 0) {
  if (!isErrorLike(value)) {
    const message = typeof value === 'string' ? value : `${show(value)} was thrown`;
    return { name: 'Error', message: cut(message), stack: '' };
  }
  const name = cut(nameOf(value));
  const message = cut(messageOf(value));
  const stack = read(value, 'stack') ?? '';
  const lines = [message ? `${name}: ${message}` : name, ...syntaxPlace(stack, files), ...ownLines(stack, files)];
  const inner = depth < CAUSES ? cause(value) : undefined;
  if (inner !== undefined) {
    const below = describe(inner, files, depth + 1);
    lines.push(`Caused by: ${below.stack || `${below.name}: ${below.message}`}`);
  }
  return { name, message, stack: cut(lines.join('\n'), STACK_CHARS) };
}

/** Leave this bootstrap and Node itself out of every stack: they tell the script's author nothing. */
function shortenStacks() {
  Error.prepareStackTrace = (error, frames) => {
    let text;
    try {
      text = toText.call(error);
    } catch {
      text = 'Error';
    }
    for (const frame of frames) {
      const row = String(frame);
      if (!/(?:^|\()(?:node:|\/boot\/[^/]+:)/.test(row)) text += `\n    at ${row.replace('/boot/node_modules/', 'node_modules/')}`;
    }
    return text;
  };
}

module.exports = { describe, shortenStacks };
