// Drives OHIF in a headless browser: reads commands as JSON lines from stdin, answers each with one JSON line on stdout.
// usage: node ohif_drive.js PLAYWRIGHT_FOLDER CHROMIUM PROFILE_FOLDER WIDTH HEIGHT
// {"id": NUMBER, "command": NAME, ...arguments} -> {"id": NUMBER, "result": ...} or {"id": NUMBER, "error": TEXT}.
// Number 0 answers that it has started; it ends when stdin does.
'use strict';
const readline = require('node:readline');
const [, , playwright, chromium, profile, width, height] = process.argv;

const BROWSER_OPTIONS = [
  '--no-sandbox', // tests run as root in containers
  '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist', // WebGL without a graphics card
  '--disk-cache-size=500000000', // else the application is too large to be kept from one page to the next
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run',
];
const SECONDS = 1000;

// What runs in the page. Each is sent as its source text, so it sees nothing but the page and its one argument.
const FACTS = {
  // Whether the application has hung images and drawn one
  ready: () => {
    try {
      const viewport = window.__hilum.viewport();
      return Boolean(viewport?.getCurrentImageId?.() && viewport.getImageData?.());
    } catch { // as long as its services are being set up
      return false;
    }
  },
  series: () => window.services.displaySetService.getActiveDisplaySets().map(set => ({
    uid: set.displaySetInstanceUID,
    series: set.SeriesInstanceUID,
    modality: set.Modality,
    description: set.SeriesDescription ?? '',
    images: set.numImageFrames ?? set.instances?.length ?? 0,
    handler: set.SOPClassHandlerId ?? '',
    unsupported: Boolean(set.unsupported),
    thumbnail: (document.getElementById(`thumbnail-${set.displaySetInstanceUID}`)?.innerText ?? '').split('\n')
      .map(line => line.trim()).filter(Boolean),
  })),
  // What the active viewport shows: null members where it shows no image
  viewport: () => {
    const { services } = window;
    const grid = services.viewportGridService.getState();
    const pane = grid.viewports.get(grid.activeViewportId);
    const viewport = window.__hilum.viewport();
    const box = viewport?.canvas?.isConnected ? viewport.canvas.getBoundingClientRect() : null;
    const image = viewport?.getCurrentImageId?.() ?? null;
    const letters = {};
    for (const place of ['left', 'top', 'right', 'bottom']) {
      const marker = document.querySelector(`.${place}-mid.orientation-marker`);
      if (marker) letters[place] = marker.innerText.trim();
    }
    const panes = document.querySelectorAll('[data-cy="viewport-pane"]');
    return {
      display_sets: pane?.displaySetInstanceUIDs ?? [],
      type: viewport?.type ?? null,
      index: viewport?.getCurrentImageIdIndex?.() ?? null,
      images: viewport?.getImageIds?.().length ?? 0,
      sop_instance_uid: image ? window.cornerstone.metaData.get('instance', image)?.SOPInstanceUID ?? null : null,
      box: box && box.width > 0 ? [box.x, box.y, box.width, box.height] : null,
      pane: (({ x, y, width: w, height: h }) => [x, y, w, h])(panes[0].getBoundingClientRect()),
      letters,
      text: [...panes].map(each => each.innerText).join('\n'),
      frames: [...document.querySelectorAll('object, embed, iframe')].map(each =>
        ({ tag: each.tagName.toLowerCase(), source: each.data || each.src || '', type: each.type || '' })),
      questions: [...document.querySelectorAll('[data-cy="viewport-notification"]')].map(each => each.innerText),
    };
  },
  // The file that an embedded document shows, as base64
  document: async () => {
    const shown = document.querySelector('object, embed, iframe');
    const bytes = new Uint8Array(await (await fetch(shown.data || shown.src)).arrayBuffer());
    let binary = '';
    for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return btoa(binary);
  },
  index_of: uid => (window.__hilum.viewport()?.getImageIds?.() ?? []).findIndex(
    image => window.cornerstone.metaData.get('instance', image)?.SOPInstanceUID === uid),
  to_page: points => {
    const viewport = window.__hilum.viewport();
    const box = viewport.canvas.getBoundingClientRect();
    return points.map(point => viewport.worldToCanvas(point)).map(([x, y]) => [x + box.x, y + box.y]);
  },
  to_world: places => {
    const viewport = window.__hilum.viewport();
    const box = viewport.canvas.getBoundingClientRect();
    return places.map(([x, y]) => [...viewport.canvasToWorld([x - box.x, y - box.y])]);
  },
  // What the segmentation service holds and shows in the active viewport
  segments: () => {
    const { segmentationService, viewportGridService } = window.services;
    const viewport = viewportGridService.getActiveViewportId();
    return segmentationService.getSegmentationRepresentations(viewport).flatMap(shown =>
      Object.values(window.cornerstoneTools.segmentation.state.getSegmentation(shown.segmentationId).segments)
        .filter(Boolean).map(segment => ({
          segmentation: shown.segmentationId,
          type: shown.type,
          number: segment.segmentIndex,
          label: segment.label,
          colour: [...window.cornerstoneTools.segmentation.config.color.getSegmentIndexColor(
            viewport, shown.segmentationId, segment.segmentIndex)].slice(0, 3),
          visible: Boolean(shown.visible) && (shown.segments?.[segment.segmentIndex]?.visible ?? true),
        })));
  },
  // The loaded voxels of the label map in the active viewport: by SOP Instance UID of the image below, as base64
  voxels: () => {
    const { segmentationService, viewportGridService } = window.services;
    const { cache, metaData } = window.cornerstone;
    const found = {};
    const shown = segmentationService.getSegmentationRepresentations(viewportGridService.getActiveViewportId());
    for (const each of shown) {
      const held = window.cornerstoneTools.segmentation.state.getSegmentation(each.segmentationId).representationData;
      for (const image of (held.Labelmap?.imageIds ?? []).map(id => cache.getImage(id))) {
        const labels = image.voxelManager.getScalarData();
        const uid = metaData.get('instance', image.referencedImageId).SOPInstanceUID;
        if (labels.some(Boolean)) found[uid] = btoa(String.fromCharCode(...Uint8Array.from(labels)));
      }
    }
    return found;
  },
  // The measurements of the SR in the active viewport as OHIF read them, and those that it keeps as its own
  measurements: () => {
    const { displaySetService, viewportGridService, measurementService } = window.services;
    const grid = viewportGridService.getState();
    const sets = (grid.viewports.get(grid.activeViewportId)?.displaySetInstanceUIDs ?? [])
      .map(uid => displaySetService.getDisplaySetByUID(uid)).filter(set => set?.Modality === 'SR');
    return {
      read: sets.flatMap(set => set.measurements ?? []).map(each => ({
        name: each.TrackingIdentifier,
        tracking_uid: each.TrackingUniqueIdentifier,
        lines: (each.labels ?? []).map(label => `${label.label}: ${label.value}`),
        sop_instance_uid: each.ReferencedSOPInstanceUID ?? null,
        loaded: Boolean(each.loaded),
      })),
      kept: measurementService.getMeasurements().map(each => ({
        name: each.label ?? '', tool: each.toolName ?? '', lines: [...(each.displayText?.primary ?? []),
          ...(each.displayText?.secondary ?? [])] })),
    };
  },
  // The lines and texts of the annotation layer, in page coordinates
  drawn: () => {
    const layer = window.__hilum.viewport()?.element?.querySelector('svg.svg-layer');
    const box = layer?.getBoundingClientRect();
    const shown = each => each.getClientRects().length > 0;
    const colour = each => getComputedStyle(each).stroke;
    // The points of a polyline, and those of a path of straight lines
    const points = each => {
      const numbers = (each.getAttribute('points') ?? each.getAttribute('d') ?? '').match(/-?[\d.]+/g) ?? [];
      return numbers.flatMap((x, at) => at % 2 ? [] : [[Number(x) + box.x, Number(numbers[at + 1]) + box.y]]);
    };
    return {
      lines: layer ? [...layer.querySelectorAll('polyline, polygon, path')].filter(shown)
        .map(each => ({ colour: colour(each), points: points(each) })) : [],
      texts: layer ? [...layer.querySelectorAll('text')].filter(shown)
        .map(each => [...each.querySelectorAll('tspan')].map(part => part.textContent.trim())) : [],
    };
  },
};

// Runs in every page before its own scripts
const PREPARATION = () => {
  const rejected = [];
  // OHIF takes these for itself and shows "Something went wrong", so the browser does not report them
  window.addEventListener('unhandledrejection', event => rejected.push(`rejected: ${event.reason?.stack ?? event.reason}`));
  window.__hilum = {
    rejected,
    viewport: () => {
      const grid = window.services?.viewportGridService;
      const view = window.services?.cornerstoneViewportService;
      return grid && view ? view.getCornerstoneViewport(grid.getActiveViewportId()) ?? null : null;
    },
  };
};

let browser; let page; let said = [];

async function fact(name, argument) {
  return page.evaluate(`(${FACTS[name]})(${JSON.stringify(argument ?? null)})`);
}

const COMMANDS = {
  async open({ url }) {
    if (page) await page.close();
    const mine = said = []; // what a page says while it is being closed is nobody's
    page = await browser.newPage();
    await page.addInitScript(PREPARATION);
    page.on('console', message => {
      if (message.type() === 'error') mine.push(message.text());
    });
    page.on('pageerror', error => mine.push(`uncaught: ${error.stack ?? error}`));
    page.on('requestfailed', request => {
      const why = request.failure()?.errorText;
      // OHIF itself aborts the images that it fetches ahead when another series is opened
      if (why !== 'net::ERR_ABORTED') mine.push(`failed: ${request.url()} ${why}`);
    });
    page.on('response', response => {
      if (response.status() >= 400) mine.push(`HTTP ${response.status()}: ${response.url()}`);
    });
    await page.goto(url, { waitUntil: 'domcontentloaded' });
  },
  fact: ({ name, argument }) => fact(name, argument),
  async await_ready({ seconds }) {
    await page.waitForFunction(`(${FACTS.ready})()`, null, { timeout: seconds * SECONDS });
  },
  async double_click({ selector, seconds }) {
    await page.locator(selector).first().dblclick({ timeout: seconds * SECONDS });
  },
  async click({ selector, seconds, nth = 0 }) {
    await page.locator(selector).nth(nth).click({ timeout: seconds * SECONDS });
  },
  async press({ key }) { await page.keyboard.press(key); },
  count: ({ selector }) => page.locator(selector).count(),
  texts: ({ selector }) => page.locator(selector).allInnerTexts(),
  // Move to an image by its place in the stack, as the scroll bar does
  async show({ index }) {
    await page.evaluate(async at => {
      await window.cornerstone.utilities.jumpToSlice(window.__hilum.viewport().element, { imageIndex: at });
    }, index);
  },
  // Draw again, and return once two more frames have been shown
  async redraw() {
    await page.evaluate(() => new Promise(done => {
      window.__hilum.viewport()?.render?.();
      requestAnimationFrame(() => requestAnimationFrame(() => done()));
    }));
  },
  // Fit the image to the viewport, as its Reset button does
  async fit() {
    await page.evaluate(() => {
      const viewport = window.__hilum.viewport();
      viewport.resetCamera();
      viewport.render();
    });
  },
  async picture({ path }) { await page.screenshot({ path, animations: 'disabled', caret: 'hide' }); },
  text: () => page.innerText('body'),
  said: async () => [...said, ...await page.evaluate(() => window.__hilum.rejected)],
};

async function main() {
  const { chromium: engine } = require(playwright);
  browser = await engine.launchPersistentContext(profile, {
    executablePath: chromium, args: BROWSER_OPTIONS, headless: true,
    viewport: { width: Number(width), height: Number(height) },
  });
  process.stdout.write(`${JSON.stringify({ id: 0, result: null })}\n`);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { id, command, ...rest } = JSON.parse(line);
    let answer;
    try {
      answer = { id, result: (await COMMANDS[command](rest)) ?? null };
    } catch (error) {
      answer = { id, error: String(error.message ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  await browser.close();
}

main().catch(error => {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
});
