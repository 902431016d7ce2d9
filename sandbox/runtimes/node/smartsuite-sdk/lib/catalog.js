'use strict';

const { segment } = require('./connection.js');

/** Applications, which SmartSuite also calls tables. */
class Applications {
  #connection;

  constructor(connection) {
    this.#connection = connection;
  }

  /** All applications of the workspace, or of one `solution`; `fields` limits what is returned of each. */
  list({ solution, fields } = {}) {
    return this.#connection.send('GET', '/applications/', { query: { solution, fields } });
  }

  /** One application with its structure. */
  get(applicationId) {
    return this.#connection.send('GET', `/applications/${segment('applicationId', applicationId)}/`);
  }
}

class Solutions {
  #connection;

  constructor(connection) {
    this.#connection = connection;
  }

  /** All solutions of the workspace; `fields` limits what is returned of each. */
  list({ fields } = {}) {
    return this.#connection.send('GET', '/solutions/', { query: { fields } });
  }

  get(solutionId) {
    return this.#connection.send('GET', `/solutions/${segment('solutionId', solutionId)}/`);
  }
}

module.exports = { Applications, Solutions };
