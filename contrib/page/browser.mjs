// A browser for the tests of the page: pictures, axe, and all that must not happen meanwhile.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
export const SIZES = { desk: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };
const faults = [];

export function check(is, what) {
  if (is) return;
  faults.push(what);
  console.log(`FAILED: ${what}`);
}

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', '--disable-gpu'] });

// A page in a tab of its own, watched for what a page must not do.
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: SIZES.desk, reducedMotion: 'reduce', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const own = new URL(url).origin;
  page.on('pageerror', (error) => check(false, `an error in the page: ${error.message}`));
  page.on('console', (said) => {
    // A call that fails is told by the browser; the tests make some fail.
    if (said.type() === 'error' && !/Failed to load resource/.test(said.text())) check(false, `the console says: ${said.text()}`);
  });
  page.on('request', (request) => {
    const target = new URL(request.url());
    check(['data:', 'blob:'].includes(target.protocol) || target.origin === own, `a request to ${request.url()}`);
    for (const secret of options.secrets || []) check(!request.url().includes(secret), 'a token in an address');
  });
  page.on('dialog', (dialog) => { check(false, `a dialog of the browser: ${dialog.message()}`); dialog.dismiss(); });
  await page.goto(url);
  return page;
}

async function search(page, name) {
  // The page's policy lets no script in, but what the driver evaluates.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  check(found.passes.length > 5, `axe in ${name} looked at nothing`);
  for (const one of found.violations) {
    check(false, `axe in ${name}: ${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => `${node.target} ${node.any[0]?.message || ''}`).join(' | ')}`);
  }
}

// A picture of a state in each look, searched by axe in each.
export async function look(page, name) {
  const before = page.viewportSize();
  for (const [size, scheme] of [['desk', 'light'], ['desk', 'dark'], ['phone', 'dark'], ['phone', 'light']]) {
    await page.setViewportSize(SIZES[size]);
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    await page.waitForTimeout(150);
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: `${process.env.PICTURES}/${name}-${size}-${scheme}.png` });
    if (size === 'desk' || scheme === 'dark') await search(page, `${name} (${size}, ${scheme})`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    check(wide <= 0, `${name} (${size}): ${wide} pixels too wide`);
  }
  await page.setViewportSize(before);
}

// Goes to an element by Tab alone, as who has no mouse.
export async function tabTo(page, selector, most = 60) {
  for (let step = 0; step < most; step += 1) {
    if (await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
    await page.keyboard.press('Tab');
  }
  throw new Error(`${selector} is not reached by ${most} times Tab`);
}

export const text = (page, selector) => page.locator(selector).innerText();

export async function has(page, selector, wanted, ms = 20_000) {
  try {
    await page.locator(selector).filter({ hasText: wanted }).first().waitFor({ timeout: ms });
    return true;
  } catch {
    check(false, `${selector} has no ${wanted}: ${(await page.locator(selector).allInnerTexts()).join(' / ').slice(0, 300)}`);
    return false;
  }
}

// Ends the test: with 1 if anything was wrong.
export async function end(browser, done) {
  await browser.close();
  console.log(faults.length ? `${faults.length} faults` : done);
  process.exit(faults.length ? 1 : 0);
}
