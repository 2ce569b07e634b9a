'use strict';
// Chromium without a window, and one page in it, on which a test calls Playwright's own methods by their names.
const { readFileSync } = require('node:fs');
const { chromium } = require('playwright-core');
const { obey, say, settings, told } = require('./program');

const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
// As root Chromium has no sandbox. The others keep it from asking for hosts of its maker.
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  `--remote-debugging-port=${settings.port}`,
];
let launched;
let browser;
let page;
let errors = [];
let asked = [];

async function start() {
  launched = await chromium.launch({ executablePath: settings.chromium, args: FLAGS });
  // Playwright's usual connection makes every tab believe that it is seen. This one leaves a plain tab as it is.
  browser = await chromium.connectOverCDP(`http://127.0.0.1:${settings.port}`, { noDefaults: true });
}

async function open({ url, plain, ...options }) {
  await close();
  const context = plain ? browser.contexts()[0] : await browser.newContext(options);
  page = await context.newPage();
  errors = [];
  asked = [];
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('request', (request) => asked.push(`${request.method()} ${new URL(request.url()).pathname}`));
  await page.goto(url);
}

// A page that stays open would go on asking its server.
async function close() {
  for (const each of browser.contexts()[0].pages()) await each.close();
  for (const context of browser.contexts().slice(1)) await context.close();
}

// What axe-core finds, as the rule, the elements, and what is wrong with the first.
async function axe() {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate('axe.run()');
  return violations.map(({ id, nodes }) => [id, nodes.map((node) => String(node.target)), nodes[0].failureSummary]);
}

// Another tab comes to the front, or the page's own.
async function cover() {
  const other = await page.context().newPage();
  await other.bringToFront();
}

obey(async ({ open: how, call, args, axe: isAxe, cover: isCover }) => {
  if (how) return open(how);
  if (isAxe) return axe();
  if (isCover) return cover();
  if (call === 'errors') return errors;
  if (call === 'asked') return asked;
  const answer = await page[call](...args);
  return ['string', 'number', 'boolean'].includes(typeof answer) || Array.isArray(answer) ? answer : null;
});
start().then(
  () => say({ ready: true }),
  (error) => say({ ready: false, ...told(error) }),
);
