// The page: the list of detections, the slider, buttons, keys, and the start.

const ORDERS = {
  start: (a, b) => a.start - b.start || b.score - a.score,
  score: (a, b) => b.score - a.score || a.start - b.start,
  label: (a, b) => a.group - b.group || a.start - b.start,
};
let order = "start", most = EACH, listed = [];
const rowOf = new Map(); // of the detections in the list

function setLeast(value) {
  least = Math.min(best, Math.max(lowest, value));
  get("least").value = least;
  const enough = detections.filter((one) => one.score >= least - 1e-9 * Math.abs(best));
  shown = enough.sort(ORDERS.start);
  most = EACH;
  get("least-shown").textContent = scoreText(least);
  get("counted").textContent = `${shown.length.toLocaleString("en")} of ${counted(detections.length, "detection")}`;
  get("least").setAttribute("aria-valuetext", `${scoreText(least)}, ${counted(shown.length, "detection")}`);
  layOut();
  list();
  drawSoon();
}

function list() {
  listed = order === "start" ? shown : [...shown].sort(ORDERS[order]);
  rowOf.clear();
  for (const one of listed.slice(0, most)) rowOf.set(one, makeRow(one));
  get("rows").replaceChildren(...rowOf.values());
  get("more").hidden = listed.length <= most;
  get("more").textContent = `Show ${Math.min(EACH, listed.length - most)} more`;
  get("nothing").hidden = detections.length > 0;
  get("nothing").textContent = "Nothing was found in this video.";
  for (const button of document.querySelectorAll("[data-order]")) {
    const is = button.dataset.order === order;
    button.closest("th").setAttribute("aria-sort", !is ? "none" : order === "score" ? "descending" : "ascending");
  }
  markCurrent();
}

function makeRow(one) {
  const [name, colour] = data.classes[one.group];
  const button = element("button", { "aria-label": `Play ${nameOf(one)}, ${spanOf(one)}, score ${scoreText(one.score)}` }, element("i", { class: `colour-${colour}` }), text(name));
  const bar = element("span", { class: "meter", "aria-hidden": "true" }, element("span"));
  bar.firstChild.style.width = `${100 * share(one)}%`;
  const row = element("tr", {},
    element("th", { scope: "row" }, button),
    element("td", {}, clockTime(one.start)),
    element("td", { class: "end" }, clockTime(one.end)),
    element("td", {}, bar, scoreText(one.score)),
  );
  row.addEventListener("click", () => choose(one));
  button.detection = one;
  return row;
}

function markCurrent() {
  for (const [one, row] of rowOf) {
    if (one === current) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  drawSoon();
}

/** Bring a detection into view, on the timeline and in the list; the page itself is not scrolled. */
function reveal(one) {
  if (one.score < least) setLeast(one.score);
  if (!rowOf.has(one)) {
    most = EACH * Math.ceil((listed.indexOf(one) + 1) / EACH);
    list();
  }
  const box = get("list"), row = rowOf.get(one), head = box.querySelector("thead").offsetHeight;
  if (box.scrollHeight > box.clientHeight + 1) {
    const top = row.offsetTop - head, bottom = row.offsetTop + row.offsetHeight;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  }
  const x = xOf(one.start), end = xOf(one.end);
  if (zoom > 1 && (x < left() || end > timeline.clientWidth)) timeline.scrollLeft += x - left() - 0.1 * plotWidth();
}

let pending = false;
get("least").addEventListener("input", () => {
  if (!pending) requestAnimationFrame(() => ((pending = false), setLeast(Number(get("least").value))));
  pending = true;
});
get("more").addEventListener("click", () => {
  most += EACH;
  list();
});
for (const button of document.querySelectorAll("[data-order]"))
  button.addEventListener("click", () => {
    order = button.dataset.order;
    list();
  });

// ------------------------------------------------------------------------------------------ buttons and keys

const STEP = (best - lowest) / 50 || 0.02; // of the slider, by keys
const BUTTONS = {
  play: togglePlay,
  previous: () => step(-1),
  next: () => step(1),
  "zoom-in": () => setZoom(zoom * 2),
  "zoom-out": () => setZoom(zoom / 2),
  "zoom-fit": () => setZoom(1),
  "help-open": () => get("help").showModal(),
};
for (const [id, act] of Object.entries(BUTTONS)) get(id).addEventListener("click", act);

const KEYS = {
  " ": togglePlay,
  Escape: stop,
  ArrowLeft: () => seek(now() - 1),
  ArrowRight: () => seek(now() + 1),
  n: BUTTONS.next,
  p: BUTTONS.previous,
  "[": () => setLeast(least - STEP),
  "]": () => setLeast(least + STEP),
  ArrowDown: () => setLeast(least - STEP),
  ArrowUp: () => setLeast(least + STEP),
  "+": BUTTONS["zoom-in"],
  "=": BUTTONS["zoom-in"],
  "-": BUTTONS["zoom-out"],
  0: BUTTONS["zoom-fit"],
  "?": BUTTONS["help-open"],
};

/** Whether a key belongs to the element that has the focus, or to the browser. */
function isTaken(key, on) {
  const button = on.closest("button, a, label, input[type=file]");
  if (key === " ") return button !== null && (!button.detection || button.detection !== current);
  if (key === "ArrowUp" || key === "ArrowDown") return on !== timeline && on !== video;
  return key.startsWith("Arrow") && on === get("least");
}

document.addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey || event.altKey || get("help").open || !get("keys").checked) return;
  if (!(key in KEYS) || isTaken(key, event.target)) return;
  event.preventDefault(); // the controls of the video would act too
  event.stopPropagation();
  KEYS[key]();
}, true);
document.addEventListener("keyup", (event) => {
  if (event.key === " " && event.target.detection && event.target.detection === current) event.preventDefault();
}, true);

// ------------------------------------------------------------------------------------------------- the start

/** An address that ends in #t=12.3,15 opens at that detection, or else that moment. */
function fromAddress() {
  const found = /^#t=([\d.]+)(?:,([\d.]+))?$/.exec(location.hash);
  if (!found) return;
  const [from, to] = [Number(found[1]), Number(found[2])];
  const one = detections.find((each) => Math.abs(each.start - from) < 0.002 && Math.abs(each.end - to) < 0.002);
  if (one) choose(one, false);
  else if (Number.isFinite(from)) seek(from);
}

const used = data.leftOut ? `, the best of ${(detections.length + data.leftOut).toLocaleString("en")}` : "";
get("summary").textContent = [
  clockTime(data.seconds),
  counted(detections.length, "detection") + used + (detections.length ? ` of ${counted(data.classes.length, "class", "classes")}` : ""),
  counted(data.proposals, "proposal"),
].join(" · ");
Object.assign(get("least"), { min: lowest, max: best, step: "any" });
for (const id of ["least", "previous", "next"]) get(id).disabled = !detections.length;
if (detections.length) say("Click a detection to play it. Press ? for help.");
packLanes();
readColours();
setLeast(least);
setLength(length);
setZoom(1);
if (data.media) open(data.media, data.file);
else withoutVideo("There is no video file beside these features.");
fromAddress();
tick();
window.addEventListener("hashchange", fromAddress);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (readColours(), drawSoon()));
new ResizeObserver(() => (layOut(), drawSoon())).observe(timeline);
