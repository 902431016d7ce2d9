// The rate of a currency, asked of a service at most once a minute: `sdk` and `context` are there without require().
exports.handler = async ({ service = 'https://rates.example.com', currency = 'EUR' }) => {
  const key = `rate:${currency}`;
  const kept = await sdk.cache.get(key);
  if (kept !== null) return { ...kept, from: 'cache' };

  const answer = await sdk.http.get(`${service}/rates`, { query: { currency }, timeout: 5000 });
  if (answer.status !== 200) throw new Error(`the service answers ${answer.status}`);
  const found = { currency, rate: answer.body.rate };
  await sdk.cache.set(key, found, 60);
  sdk.log.info('asked anew', { ...found, trigger: context.trigger.type });
  await events.publish('rates.rate.changed', found);
  return { ...found, from: 'service' };
};
