'use strict';
// sdk.db: statements go to the platform, which holds the connections and says what a statement may do.

const check = require('./arguments.js');

/** Query, execute and queryOne on one data source, within a transaction or without. `ask` is of sdk.js. */
function statements(ask, source, tx, label) {
  const send = (name) => async (sql, params = []) => {
    check.text(`${label}.${name}`, 'sql', sql);
    check.params(`${label}.${name}`, params);
    return await ask(`db.${name}`, { sql, params, source, tx }, `${label}.${name}`);
  };
  return { query: send('query'), execute: send('execute'), queryOne: send('queryOne') };
}

/** What a transaction's function gets; `settle` ends it once all of its statements are answered. */
function openTransaction(ask, source, tx) {
  const under = new Set();
  let ended = false;
  const within = async (...sent) => {
    if (ended) throw new Error('This transaction has ended; its statements belong into the function that transaction() is given');
    const answer = ask(...sent);
    under.add(answer);
    try {
      return await answer;
    } finally {
      under.delete(answer);
    }
  };
  async function settle(method) {
    ended = true;
    await Promise.allSettled(under);
    await ask(method, { tx }, 'sdk.db.transaction');
  }
  return { handed: Object.freeze(statements(within, source, tx, 'tx')), settle };
}

function dataSource(ask, source) {
  return {
    ...statements(ask, source, null, 'sdk.db'),
    async transaction(body) {
      if (typeof body !== 'function') throw check.wrong('sdk.db.transaction', 'its argument', 'a function', body);
      const { tx } = await ask('db.begin', { source }, 'sdk.db.transaction');
      const { handed, settle } = openTransaction(ask, source, tx);
      let value;
      try {
        value = await body(handed);
      } catch (error) {
        // The script's own error is what its author wants to see; a transaction that can't be undone now is undone
        // when the run ends.
        await settle('db.rollback').catch(() => {});
        throw error;
      }
      await settle('db.commit');
      return value;
    },
  };
}

function create(ask) {
  return {
    ...dataSource(ask, null),
    /** Another data source of the workspace, with the same members but this one. */
    source(name) {
      return Object.freeze(dataSource(ask, check.text('sdk.db.source', 'name', name)));
    },
  };
}

module.exports = { create };
