'use strict';
// The names that a script finds without require(): context, sdk and events. What is behind them is made when one of
// them is first read, so a script that uses none pays nothing. A script may have variables of its own by these names.

const NAMES = ['context', 'sdk', 'events'];
const { defineProperty } = Object;

/** `create` makes an object with a member for each name; it is called at most once. */
function install(create) {
  let made;
  for (const name of NAMES) {
    defineProperty(globalThis, name, {
      configurable: false,
      enumerable: false,
      get: () => (made ??= create())[name],
      set() {
        throw new TypeError(`${name} is the platform's and can't be replaced; declare a variable of your own with const or let`);
      },
    });
  }
}

module.exports = { install };
