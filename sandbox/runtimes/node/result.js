'use strict';
// What a handler returned, as JSON text, or why it is none.

const { stringify } = JSON;
const bufferFrom = Buffer.from;
const REASON_CHARS = 272 * 1024; // As in errors.js: cut where it is masked.

function bad(message) {
  return { kind: 'bad_result', name: 'BadResult', message };
}

function reason(error) {
  try {
    if (error instanceof RangeError && /call stack/.test(error.message)) return 'it is nested too deeply';
    return String(error.message).split('\n', 1)[0].slice(0, REASON_CHARS);
  } catch {
    return 'it can not be read';
  }
}

/** Returns a Buffer of JSON, or {kind, name, message}. */
function encode(value, maxBytes) {
  if (value === undefined) return bufferFrom('null');
  if (typeof value === 'number' && !Number.isFinite(value)) return bad(`The handler returned ${value}, which JSON can not express`);
  if (typeof value === 'function' || typeof value === 'symbol' || typeof value === 'bigint') {
    return bad(`The handler returned a ${typeof value}, which JSON can not express`);
  }
  let text;
  try {
    text = stringify(value);
  } catch (error) {
    return bad(`The handler's result is not JSON: ${reason(error)}`);
  }
  const bytes = bufferFrom(text === undefined ? 'null' : text, 'utf8');
  if (bytes.length > maxBytes) {
    return { kind: 'result_too_large', name: 'ResultTooLarge', message: `The result is ${bytes.length} bytes; at most ${maxBytes} are allowed` };
  }
  return bytes;
}

module.exports = { encode };
