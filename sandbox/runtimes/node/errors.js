'use strict';
// Turns whatever a script threw into {name, message, stack}, with the script's own stack lines only.

const { inspect } = require('node:util');

const toText = Error.prototype.toString;
const MESSAGE_CHARS = 16 * 1024;
const STACK_LINES = 50;
const CAUSES = 3;
const FRAME = /^\s+at (?:.* \()?(.+?):\d+:\d+\)?$/;

function cut(text, length) {
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
    return inspect(value, { depth: 2, breakLength: Infinity, customInspect: false });
  } catch {
    return 'a value that cannot be shown';
  }
}

function isErrorLike(value) {
  return value !== null && typeof value === 'object' && read(value, 'message') !== undefined;
}

function ownLines(stack, files) {
  const lines = [];
  for (const line of stack.split('\n')) {
    const frame = FRAME.exec(line);
    if (frame && files.has(frame[1]) && lines.length < STACK_LINES) lines.push(cut(line, 500));
  }
  return lines;
}

// V8 puts the place of a syntax error above the name: "index.js:3", the line, a row of carets.
function syntaxPlace(stack, files) {
  const first = stack.split('\n', 3);
  const place = /^(.+):\d+$/.exec(first[0] ?? '');
  return place && files.has(place[1]) ? first.map((line) => cut(line, 500)) : [];
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
    return { name: 'Error', message: cut(message, MESSAGE_CHARS), stack: '' };
  }
  const name = cut(read(value, 'name') || 'Error', 200);
  const message = cut(read(value, 'message'), MESSAGE_CHARS);
  const stack = read(value, 'stack') ?? '';
  const lines = [message ? `${name}: ${message}` : name, ...syntaxPlace(stack, files), ...ownLines(stack, files)];
  const inner = depth < CAUSES ? cause(value) : undefined;
  if (inner !== undefined) {
    const below = describe(inner, files, depth + 1);
    lines.push(`Caused by: ${below.stack || `${below.name}: ${below.message}`}`);
  }
  return { name, message, stack: lines.join('\n') };
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
