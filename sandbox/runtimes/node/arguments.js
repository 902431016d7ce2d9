'use strict';
// Whether what a script hands to its SDK is what the SDK takes. Values are not shown, since they may be secret.

const { isArray } = Array;
const { isFinite, isSafeInteger } = Number;
const { getPrototypeOf, keys } = Object;
const EVENT_TYPE = /^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$/;
const EVENT_TYPE_CHARS = 255;

/** What `value` is, in words. */
function kindOf(value) {
  if (value === null || value === undefined) return `${value}`;
  if (value === '') return 'an empty string';
  if (typeof value === 'number') return `${value}`;
  if (isArray(value)) return 'an array';
  if (typeof value !== 'object') return `a ${typeof value}`;
  return isPlain(value) ? 'an object' : 'an instance of a class';
}

function wrong(label, name, rule, value) {
  return new TypeError(`${label}: ${name} must be ${rule}, not ${kindOf(value)}`);
}

function text(label, name, value) {
  if (typeof value !== 'string' || value === '') throw wrong(label, name, 'a string that is not empty', value);
  return value;
}

function integer(label, name, value, low, high) {
  if (!isSafeInteger(value) || value < low || value > high) {
    const range = low === -high ? 'a whole number' : `a whole number from ${low} to ${high}`;
    throw wrong(label, name, range, value);
  }
  return value;
}

function isPlain(value) {
  if (value === null || typeof value !== 'object' || isArray(value)) return false;
  const prototype = getPrototypeOf(value);
  return prototype === null || getPrototypeOf(prototype) === null;
}

function plain(label, name, value) {
  if (!isPlain(value)) throw wrong(label, name, 'an object', value);
  return value;
}

/** The members of an object of options, none of which is unknown. */
function options(label, value, known) {
  if (value === undefined || value === null) return {};
  plain(label, 'options', value);
  for (const name of keys(value)) {
    if (!known.includes(name)) throw new TypeError(`${label}: there is no option ${name}; there are ${known.join(', ')}`);
  }
  return value;
}

/** Values of a statement, each of which JSON has. */
function params(label, value) {
  if (value === null) return [];
  if (!isArray(value)) throw wrong(label, 'params', 'an array', value);
  for (let index = 0; index < value.length; index += 1) {
    const each = value[index];
    const kind = typeof each;
    if (each === undefined || kind === 'function' || kind === 'symbol' || kind === 'bigint' || (kind === 'number' && !isFinite(each))) {
      throw wrong(label, `params[${index}]`, 'a value that JSON has', each);
    }
  }
  return value;
}

function eventType(label, value) {
  text(label, 'type', value);
  if (value.length > EVENT_TYPE_CHARS || !EVENT_TYPE.test(value)) {
    throw new TypeError(
      `${label}: type must be 1 to ${EVENT_TYPE_CHARS} characters: words of letters, digits, _ and - with dots between them, such as order.item.created`,
    );
  }
  return value;
}

module.exports = { eventType, integer, isPlain, kindOf, options, params, plain, text, wrong };
