'use strict';
// Says every global event of a queue with the arguments that Bull's listeners get.
const { obey, queue, say } = require('./program');

const NAMES = ['waiting', 'active', 'completed', 'failed', 'stalled', 'paused', 'resumed', 'drained'];
const bull = queue();

// Bull subscribes behind our back and tells so by an event of its own: ready is when the last subscription stands.
const standing = NAMES.map((name) => new Promise((resolve) => bull.once(`registered:global:${name}`, resolve)));
for (const name of NAMES) {
  bull.on(`global:${name}`, (...args) => say({ event: name, args }));
}
bull.on('error', (error) => say({ event: 'trouble', args: [String(error.message)] }));
Promise.all(standing).then(() => say({ ready: true }));

obey(() => null);
