'use strict';
// RudderStack's Node SDK without a queue: {"method":"track","message":{…}} is sent by itself; answers once the data
// plane has it. {"$date": "…"} stands for a Date.
const Analytics = require('@rudderstack/rudder-sdk-node');
const { obey, say, settings } = require('./program');

const client = new Analytics(settings.write_key, {
  dataPlaneUrl: settings.data_plane_url,
  logLevel: 'none',
  flushAt: 1,
  gzip: false,
});

function revived(_key, value) {
  return value && value.$date ? new Date(value.$date) : value;
}

say({ ready: true });

obey(({ method, message }) => new Promise((resolve, reject) => {
  const given = JSON.parse(JSON.stringify(message), revived);
  client[method](given, (error) => (error ? reject(error) : resolve(true)));
}));
