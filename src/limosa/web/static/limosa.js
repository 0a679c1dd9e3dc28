// What pages do by themselves: count times on, say whether they are live, take keys, draw plots.
// Everything works without it, but for the plots, whose figures stand in a table too.
"use strict";
(() => {
  const root = document.documentElement;

  // -- times: the same words as limosa.web.words -------------------------------------------------------------
  const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];
  const roughly = (seconds) => {
    for (const [unit, size] of UNITS) {
      if (seconds >= 2 * size || (unit !== "d" && seconds >= size)) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.max(0, Math.floor(seconds))} s`;
  };
  const ago = (seconds) => {
    if (Math.abs(seconds) < 5) return "just now";
    return seconds < 0 ? `in ${roughly(-seconds)}` : `${roughly(seconds)} ago`;
  };
  const countOn = () => {
    const now = Date.now();
    for (const time of document.getElementsByTagName("time")) {
      const said = ago((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== said) time.textContent = said;
    }
  };
  setInterval(countOn, 5000);

  // -- live --------------------------------------------------------------------------------------------------
  const pulse = document.getElementById("pulse");
  const say = (state, words) => {
    if (!pulse || pulse.dataset.state === state) return;
    pulse.dataset.state = state;
    pulse.firstElementChild.textContent = words;
  };
  document.addEventListener("htmx:sse:after:connection", () => say("live", "● live"));
  document.addEventListener("htmx:sse:error", () => say("lost", "Connection lost: figures are as they were."));
  document.addEventListener("htmx:sse:close", (event) => {
    if (event.detail.reason === "ended") say("lost", "No longer live.");
  });

  // What differs in the parts of a page: limosa.web.difference. None of it is read as HTML but what has other tags.
  const fill = (part, slots) => {
    const elements = part.getElementsByTagName("*");
    const texts = [];
    const walk = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) texts.push(walk.currentNode);
    for (const [place, attribute, value] of slots) {
      if (attribute === "") texts[place].data = value;
      else (place ? elements[place - 1] : part).setAttribute(attribute, value);
    }
  };
  const redraw = (part, fresh) => {
    const focused = [...part.querySelectorAll("a, button")].indexOf(document.activeElement);
    for (const { name } of [...part.attributes]) if (!fresh.hasAttribute(name)) part.removeAttribute(name);
    for (const { name, value } of fresh.attributes) part.setAttribute(name, value);
    part.replaceChildren(...fresh.childNodes);
    if (focused >= 0) part.querySelectorAll("a, button")[focused]?.focus({ preventScroll: true });
  };
  // Whoever goes through a table with keys, or has marked something in it, does so still when its rows change places.
  // Not by moveBefore: a page follows the element that has the focus, wherever it is moved.
  const keeping = (change) => {
    const focused = document.activeElement;
    const marked = document.getSelection();
    const { anchorNode, anchorOffset, focusNode, focusOffset, isCollapsed } = marked;
    change();
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    if (isCollapsed || !anchorNode.isConnected || !focusNode.isConnected) return;
    if (marked.anchorNode === anchorNode && marked.focusNode === focusNode) return;
    marked.setBaseAndExtent(anchorNode, anchorOffset, focusNode, focusOffset);
  };
  const show = ({ gone = [], drawn = {}, placed = [], slots = {} }) => {
    for (const name of gone) document.getElementById(name).remove();
    const come = new Map();
    const template = document.createElement("template");
    for (const [name, html] of Object.entries(drawn)) {
      template.innerHTML = html;
      const fresh = template.content.firstElementChild;
      const part = document.getElementById(name);
      if (part) redraw(part, fresh);
      else come.set(name, fresh);
    }
    for (const [name, after, before] of placed) {
      const part = come.get(name) ?? document.getElementById(name);
      if (after) document.getElementById(after).after(part);
      else document.getElementById(before).before(part);
    }
    for (const [name, told] of Object.entries(slots)) fill(document.getElementById(name), told);
  };
  document.addEventListener("htmx:sse:before:message", (event) => {
    const { message } = event.detail;
    if (message.event !== "parts") return;
    event.preventDefault();
    try {
      const told = JSON.parse(message.data);
      keeping(() => show(told));
    } catch (error) {
      console.error("this page is not what the server takes it for:", error);
      location.reload();
    }
    settle();
  });

  // -- colours -----------------------------------------------------------------------------------------------
  const NEXT = { auto: "dark", dark: "light", light: "auto" };
  const LOOKS = { auto: "◐", dark: "☾", light: "☼" };
  const themeButton = document.getElementById("theme");
  const turn = () => {
    const theme = NEXT[root.dataset.theme] || "auto";
    root.dataset.theme = theme;
    document.querySelector('meta[name="color-scheme"]').content = theme === "auto" ? "light dark" : theme;
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `limosa-theme=${theme}; Path=/; Max-Age=31536000; SameSite=Strict${secure}`;
    themeButton.value = NEXT[theme];
    themeButton.title = `Colours: ${theme}`;
    themeButton.setAttribute("aria-label", `Colours: ${theme}. Change to ${NEXT[theme]}`);
    themeButton.firstElementChild.textContent = LOOKS[theme];
    draw(true);
  };
  themeButton?.form.addEventListener("submit", (event) => {
    event.preventDefault();
    turn();
  });

  // On a phone the places scroll: the one that is open is in sight.
  document.querySelector(".top nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

  // -- keys --------------------------------------------------------------------------------------------------
  const keys = document.getElementById("keys");
  document.getElementById("keys-open")?.addEventListener("click", () => keys.showModal());
  const PLACES = {};
  for (const term of keys?.querySelectorAll("dt") ?? []) {
    const pressed = [...term.querySelectorAll("kbd")].map((each) => each.textContent);
    if (pressed[0] === "g") PLACES[pressed[1]] = term.nextElementSibling.textContent;
  }
  const goTo = (key) => {
    for (const link of document.querySelectorAll(".top nav a")) {
      if (link.textContent === PLACES[key]) link.click();
    }
  };
  let place = 0; // of the row that had the focus: when it goes, the one that comes up is the next
  const step = (by) => {
    const links = [...document.querySelectorAll("[data-rove] tbody th a, [data-rove] a.tile")];
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    place = Math.min(links.length - 1, Math.max(0, at < 0 ? place : at + by));
    links[place].focus();
  };
  const follow = (rel) => document.querySelector(`.pager a[rel="${rel}"]`)?.click();
  const focusSearch = () => document.getElementById("search")?.focus();
  const DEEDS = {
    "/": focusSearch,
    "?": () => keys?.showModal(),
    j: () => step(1),
    k: () => step(-1),
    n: () => follow("next"),
    p: () => follow("prev"),
    t: turn,
    r: () => location.reload(),
  };
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys?.open) return;
    if (event.target.matches("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (going) {
      going = false;
      goTo(event.key);
      return;
    }
    if (event.key === "g") {
      going = true;
      setTimeout(() => (going = false), 1500);
    } else if (DEEDS[event.key]) {
      event.preventDefault();
      DEEDS[event.key]();
    }
  });
  // Arrows go from tile to tile, as they stand on the screen.
  document.addEventListener("keydown", (event) => {
    const tile = event.target.closest?.("a.tile");
    if (!tile || !event.key.startsWith("Arrow")) return;
    const tiles = [...document.querySelectorAll("a.tile")];
    const here = tile.getBoundingClientRect();
    let next = null;
    if (event.key === "ArrowRight") next = tiles[tiles.indexOf(tile) + 1];
    if (event.key === "ArrowLeft") next = tiles[tiles.indexOf(tile) - 1];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const sign = event.key === "ArrowDown" ? 1 : -1;
      let best = Infinity;
      for (const other of tiles) {
        const there = other.getBoundingClientRect();
        const rise = sign * (there.top - here.top);
        const far = rise + 3 * Math.abs(there.left - here.left);
        if (rise > 5 && far < best) [best, next] = [far, other];
      }
    }
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
  document.addEventListener("click", (event) => {
    const menu = document.querySelector("details.who[open]");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });

  // -- plots: figures in data-plot, drawn by uPlot --------------------------------------------------------------
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const drawn = new Map();
  const options = (told, width) => {
    const lines = { stroke: colour("--grid"), width: 1 };
    const axis = { stroke: colour("--dim"), grid: lines, ticks: lines, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
    return figure(told, width, axis);
  };
  const day = (at) => new Date(1000 * at).toISOString().slice(0, 10);
  const figure = (told, width, axis) => ({
    width,
    height: 220,
    cursor: { drag: { x: false, y: false } },
    legend: { show: told.series.length > 1 },
    scales: { x: { time: told.time === true }, y: { range: (_plot, _least, most) => [0, most > 0 ? 1.08 * most : 1] } },
    axes: [
      { ...axis, label: told.x, ...(told.time ? { space: 96, values: (_plot, at) => at.map(day) } : {}) },
      { ...axis, label: told.y, size: 64 },
    ],
    series: [
      { label: told.x, value: (_plot, at) => (at == null ? "" : told.time ? day(at) : String(at)) },
      ...told.series.map((each, place) => ({
        label: each,
        value: (_plot, read) => (read == null ? "" : String(read)),
        stroke: colour(`--line-${1 + (place % 3)}`),
        width: 2,
        dash: place % 3 === 1 ? [6, 3] : place % 3 === 2 ? [2, 3] : undefined,
        paths: told.bars ? uPlot.paths.bars({ size: [0.8, 60] }) : undefined,
        fill: told.bars ? colour("--line-1") : undefined,
      })),
    ],
  });
  function draw(again = false) {
    if (typeof uPlot === "undefined") return;
    for (const [place, plot] of drawn) {
      if (!place.isConnected || again) {
        plot.destroy();
        drawn.delete(place);
      }
    }
    for (const place of document.querySelectorAll("[data-plot]")) {
      const told = JSON.parse(place.dataset.plot);
      const plot = drawn.get(place);
      if (plot) plot.setData(told.data);
      else {
        place.replaceChildren(); // what is drawn without scripts
        drawn.set(place, new uPlot(options(told, place.clientWidth || 600), told.data, place));
      }
    }
  }
  const settle = () => {
    const said = document.getElementById("page-title");
    if (said) document.title = said.dataset.title;
    countOn();
    draw();
  };
  document.addEventListener("htmx:after:swap", settle);
  window.addEventListener("resize", () => {
    for (const [place, plot] of drawn) plot.setSize({ width: place.clientWidth || 600, height: 220 });
  });
  settle();
})();
