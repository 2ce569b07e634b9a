'use strict';
// Runs JavaScript of RudderStack's documentation in one scope: {"run":"client.track(…)"}. What it logs is said as an
// event, and so is each call of `callback`. {"host":"http://…"} is answered by where the SDK itself would send events
// that gets this URL as its second argument.
const vm = require('node:vm');
const Sdk = require('@rudderstack/rudder-sdk-node');
const { obey, say, settings } = require('./program');

// The documentation gives a URL in the second place. Version 3.0.13 has its options there, and ignores a URL.
class Analytics extends Sdk {
  constructor(writeKey, url, options) {
    super(writeKey, { ...options, dataPlaneUrl: url.replace(/\/v1\/batch$/, ''), logLevel: 'none' });
  }
}

const scope = vm.createContext({
  WRITE_KEY: settings.write_key,
  DATA_PLANE_URL: settings.data_plane_url,
  REDIS_PORT: settings.redis_port,
  require: (name) => (name === '@rudderstack/rudder-sdk-node' ? Analytics : require(name)),
  callback: (error) => say({ event: 'callback', args: [error ? String(error.message || error) : null] }),
  console: { log: (text) => say({ event: 'log', args: [text] }) },
});

say({ ready: true });

obey(({ run, host }) => {
  if (host) {
    return new Sdk('KEY', host).host;
  }
  vm.runInContext(run, scope);
  return null;
});
