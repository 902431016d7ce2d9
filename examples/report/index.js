// Writes a file that stays with the run: an artifact.
const dayjs = require('dayjs');
const _ = require('lodash');

exports.handler = async (payload, context) => {
  const rows = payload.rows || [];
  const byKind = _.mapValues(_.groupBy(rows, 'kind'), (group) => _.sumBy(group, 'amount'));
  const lines = ['kind,amount', ..._.map(byKind, (amount, kind) => `${kind},${amount}`)];
  await context.writeArtifact('report.csv', lines.join('\n') + '\n', 'text/csv');
  return { day: dayjs(payload.day || undefined).format('YYYY-MM-DD'), kinds: Object.keys(byKind).length };
};
