// Calls an outside API with a key that is kept as a secret.
const axios = require('axios');

exports.handler = async (payload, context) => {
  const apiKey = context.secrets.WEATHER_API_KEY;
  if (!apiKey) {
    throw new Error('Missing required secret: WEATHER_API_KEY');
  }
  const service = payload.service || 'https://api.weatherapi.com';
  const city = payload.city || 'New York';
  const { data } = await axios.get(`${service}/v1/current.json`, {
    params: { key: apiKey, q: city },
    timeout: 10_000,
  });
  return {
    city: data.location.name,
    temp_f: data.current.temp_f,
    condition: data.current.condition.text,
  };
};
