// Opens the balancer's pages in headless Chromium, as a person would.
//
// Usage: node browser.js URL
// Each line of standard input is a step, as JSON; its result is a line of JSON on standard output.

'use strict';

const readline = require('node:readline');
const { findings, isTooWide, launch } = require('./chromium.js');

const origin = process.argv[2];

/** Time limit for the start of Chromium, for each step, and for its end. */
const STEP_MS = 30_000;

/** Events that no page may cause: requests to other hosts, errors, dialogs. */
const wrong = [];

/** Records the events of all pages, including those that a page opens. */
function watch(context) {
  context.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${origin}/`) && !url.startsWith('data:')) wrong.push(`requested ${url}`);
  });
  context.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) wrong.push(`console: ${message.text()}`);
  });
  context.on('weberror', (error) => wrong.push(`error: ${error.error().message}`));
  context.on('dialog', (dialog) => {
    wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
}

/** The backends as the status page shows them, and how often the page has updated itself. */
const shown = (page) => page.evaluate(() => {
  const text = (row, field) => row.querySelector(`[data-field="${field}"]`)?.textContent.trim();
  const rows = [...document.querySelectorAll('tr[data-backend]')].map((row) => ({
    name: row.dataset.backend,
    state: row.dataset.state,
    leases: text(row, 'leases'),
    keys: text(row, 'keys'),
    failed: text(row, 'failed'),
  }));
  const counts = [...document.querySelectorAll('[data-count]')].map((row) => {
    const [minute, total] = [1, 2].map((cell) => row.cells[cell].title);
    return [row.dataset.count, { minute, total }];
  });
  return {
    rows,
    title: document.title,
    overall: document.querySelector('[data-field="overall"]').textContent,
    window: document.querySelector('[data-window]').textContent,
    counts: Object.fromEntries(counts),
    cache: document.getElementById('cache').hidden ? null : {
      note: document.getElementById('cache-note').textContent,
      hits: document.querySelector('[data-field="cache_hits"]').textContent,
      hottest: [...document.querySelectorAll('[data-hot]')].map((one) => one.dataset.hot),
    },
    commands: [...document.querySelectorAll('[data-command]')].map((one) => one.dataset.command),
    updates: Number(document.documentElement.dataset.updates || 0),
    answering: document.documentElement.dataset.answering,
  };
});

/** The keys of a listing, from its first page to its last. */
async function browse(page, first) {
  const keys = [];
  let pages = 0;
  await page.goto(origin + first);
  for (;;) {
    pages += 1;
    keys.push(...await page.$$eval('tbody th a, tbody td:first-child a', (links) => links.map((a) => a.textContent)));
    const next = page.locator('a[rel~="next"]').last();
    if (await next.count() === 0) {
      return { keys, pages };
    }
    await Promise.all([page.waitForNavigation(), next.click()]);
  }
}

/** The element that has the focus; null for the page itself. */
const focused = (page) => page.evaluate(() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const { bottom, right } = element.getBoundingClientRect();
  return {
    name: element.getAttribute('aria-label') || element.innerText?.trim() || element.id,
    target: element.getAttribute('href') || element.id,
    isSeen: outlineStyle !== 'none' && outlineWidth !== '0px' && bottom > 0 && right > 0,
  };
});

/** Presses Tab from the top of the page until `isEnd` of an element, or the end of the page; at most 200 times. */
async function tab(page, isEnd) {
  await page.evaluate(() => {
    document.activeElement.blur();
    window.getSelection().removeAllRanges();
    window.scrollTo(0, 0);
  });
  const stops = [];
  while (stops.length < 200) {
    await page.keyboard.press('Tab');
    const stop = await focused(page);
    if (stop === null) break;
    stops.push(stop);
    if (isEnd(stop)) break;
  }
  return stops;
}

function fail(error) {
  console.error(error.stack);
  process.exit(1);
}

async function within(what, work) {
  const tooLong = setTimeout(() => fail(new Error(`${what} takes more than ${STEP_MS} ms`)), STEP_MS);
  try {
    return await work();
  } finally {
    clearTimeout(tooLong);
  }
}

async function main() {
  const browser = await within('its start', launch);
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  watch(context);
  const page = await context.newPage();
  const steps = {
    open: async (where) => { await page.goto(origin + where); },
    shown: () => shown(page),
    wrong: () => wrong,
    // As in "1024 dark": the width of the window, and the colours that the person prefers.
    view: async (widthAndScheme) => {
      const [width, colorScheme] = widthAndScheme.split(' ');
      await page.setViewportSize({ width: Number(width), height: 900 });
      await page.emulateMedia({ colorScheme });
    },
    findings: () => findings(page),
    tabStops: () => tab(page, () => false),
    tabTo: async (name) => (await tab(page, (stop) => stop.name === name)).at(-1)?.name === name,
    press: (key) => page.keyboard.press(key),
    focused: async () => (await focused(page))?.name ?? null,
    valueText: () => page.evaluate(() => document.activeElement.getAttribute('aria-valuetext')),
    bottomOf: (selector) => page.$eval(selector, (element) => element.getBoundingClientRect().bottom),
    select: (selector) => page.$eval(selector, (element) => window.getSelection().selectAllChildren(element)),
    selected: () => page.evaluate(() => window.getSelection().toString()),
    // The status page gets this status, or an answer without this part.
    refuse: (status) => page.route('**/status.json*', (route) => route.fulfill({ status: Number(status) })),
    omit: (part) => page.route('**/status.json*', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, json: { ...await response.json(), [part]: undefined } });
    }),
    allow: () => page.unrouteAll(),
    // Whether the status page asks again within three of its intervals.
    asks: () => page.waitForRequest('**/status.json*', { timeout: 1500 }).then(() => true, () => false),
    phone: () => page.setViewportSize({ width: 360, height: 740 }),
    isTooWide: () => isTooWide(page),
    browse: (where) => browse(page, where),
    search: async (text) => {
      await page.goto(`${origin}/`);
      await page.fill('input[name="search"]', text);
      await Promise.all([page.waitForNavigation(), page.press('input[name="search"]', 'Enter')]);
      return (await browse(page, new URL(page.url()).pathname + new URL(page.url()).search)).keys;
    },
    click: async (text) => {
      const link = page.getByRole('link', { name: text, exact: true }).first();
      await Promise.all([page.waitForNavigation(), link.click()]);
    },
    text: () => page.evaluate(() => document.body.innerText),
    pwned: () => page.evaluate(() => window.pwned === undefined ? 'no' : 'yes'),
  };
  const lines = readline.createInterface({ input: process.stdin });
  for await (const line of lines) {
    const [step, argument] = JSON.parse(line);
    const result = await within(line, () => steps[step](argument));
    console.log(JSON.stringify(result ?? null));
  }
  await within('its end', () => browser.close());
}

main().catch(fail);
