// ------------------------------------------------------------------------------------------------ the player

/** Stands in for the video where there is none: it has the same times, methods and events. */
class Clock extends EventTarget {
  #time = 0;
  #since = null; // when it was started, in milliseconds of the browser
  constructor(duration) {
    super();
    this.duration = duration;
  }
  get paused() {
    return this.#since === null;
  }
  get currentTime() {
    const passed = this.paused ? 0 : (performance.now() - this.#since) / 1000;
    return Math.min(this.duration, this.#time + passed);
  }
  set currentTime(time) {
    this.#time = Math.min(this.duration, Math.max(0, time));
    if (!this.paused) this.#since = performance.now();
    this.dispatchEvent(new Event("seeking"));
  }
  play() {
    if (this.currentTime >= this.duration) this.#time = 0;
    this.#since = performance.now();
    this.dispatchEvent(new Event("play"));
  }
  pause() {
    this.#time = this.currentTime;
    this.#since = null;
    this.dispatchEvent(new Event("pause"));
  }
}

const detections = data.detections.map(([group, start, end, score]) => ({ group, start, end, score, lane: 0 }));
const best = detections.length ? detections[0].score : 1;
const lowest = detections.length ? Math.min(0, detections[detections.length - 1].score) : 0;
const video = get("video");
let length = detections.reduce((most, one) => Math.max(most, one.end), Math.max(data.seconds, 0.1));
const clock = new Clock(length);
let player = clock; // the video or the clock
let least = best > 0 ? best / 2 : lowest; // the score from which detections are shown
let shown = []; // those detections, by time
let current = null; // the detection that was chosen last
let limit = null; // where playing stops, while a detection is played
let wanted = null; // where to go when the video has arrived where it is going: Chromium may stop for good between two seeks

const share = (one) => Math.min(1, Math.max(0, best > 0 ? one.score / best : 1)); // of the best score
const nameOf = (one) => isolated(data.classes[one.group][0]);
const spanOf = (one) => `${clockTime(one.start)} – ${clockTime(one.end)}`;
const now = () => wanted ?? player.currentTime;
const say = (line) => (get("status").textContent = line);

function goTo(time) {
  if (player === video && (video.seeking || wanted !== null)) wanted = time;
  else player.currentTime = time;
}

function start() {
  const started = player.play(); // a promise, of the video
  if (started) started.catch((error) => error.name === "NotAllowedError" && say("Press play to start the video."));
}

function togglePlay() {
  if (player.paused) start();
  else player.pause();
}

/** Go to a detection, and play exactly it; if it is playing already, go on past its end. */
function choose(one, playing = true) {
  if (one === current && limit !== null && !player.paused) {
    limit = null;
    say(`Going on past the end of ${nameOf(one)}. Esc stops.`);
    return;
  }
  current = one;
  limit = one.end;
  goTo(one.start);
  const within = !(one.start >= player.duration - 0.01);
  say(
    !within ? `The video ends before ${nameOf(one)}, ${spanOf(one)}.`
    : playing ? `Playing ${nameOf(one)}, ${spanOf(one)}. Click it again to go on past its end; Esc stops.`
    : `${nameOf(one)}, ${spanOf(one)}. Press play to see it.`,
  );
  if (playing && within) start();
  else player.pause();
  reveal(one);
  markCurrent();
}

function stop() {
  player.pause();
  limit = current = null;
  say("");
  markCurrent();
}

/** Away from a detection, playing does not stop at its end. */
function leave(time) {
  if (limit === null || (time > current.start - 0.05 && time < limit + 0.05)) return;
  limit = null;
  say("");
}

function seek(time) {
  time = Math.min(length, Math.max(0, time));
  leave(time);
  goTo(time);
  follow();
}

/** The detection before or after the chosen one, or the present moment. */
function step(by) {
  if (!shown.length) return;
  let place = shown.indexOf(current);
  if (place < 0) {
    const after = shown.findIndex((one) => one.start > now());
    place = (after < 0 ? shown.length : after) - (by > 0 ? 1 : 0);
  }
  limit = null; // at the first and the last, it is played again
  choose(shown[Math.min(shown.length - 1, Math.max(0, place + by))]);
}

/** What changes with time; stops at the end of a detection that is played. */
function tick() {
  const time = now();
  if (limit !== null && !player.paused && !player.seeking && wanted === null && time >= limit - 0.004) {
    player.pause();
    goTo(limit);
    limit = null;
    say(`End of ${nameOf(current)}. Click it to see it again; play goes on.`);
  }
  if (player === clock && !clock.paused && time >= clock.duration) clock.pause();
  get("now").textContent = clockTime(now());
  placePlayhead();
}

function run() {
  tick();
  if (player.paused) return;
  follow();
  requestAnimationFrame(run);
}

function showPlaying() {
  const label = player.paused ? "Play" : "Pause";
  get("play").setAttribute("aria-label", label);
  get("play-icon").setAttribute("href", player.paused ? "#icon-play" : "#icon-pause");
}

for (const source of [video, clock]) {
  const own = (act) => () => source === player && act();
  source.addEventListener("play", own(() => (showPlaying(), run())));
  source.addEventListener("pause", own(() => (showPlaying(), tick())));
  source.addEventListener("timeupdate", own(tick)); // also in a tab in the background, where no frames are drawn
  source.addEventListener("seeking", own(() => {
    leave(now());
    tick();
  }));
}

video.addEventListener("seeked", () => {
  if (wanted === null) return;
  video.currentTime = wanted;
  wanted = null;
});

// -------------------------------------------------------------------------------------------- the video file

/** Let the clock run the timeline, and say why. */
function withoutVideo(why) {
  const time = now();
  wanted = null;
  video.hidden = true;
  get("missing").hidden = false;
  get("why").textContent = why;
  player = clock;
  clock.currentTime = time;
  showPlaying();
}

function open(address, name) {
  const wasAt = now();
  wanted = null;
  clock.pause();
  video.onerror = () =>
    withoutVideo(`${name} cannot be played: it is not where it was, or the browser does not know its format.`);
  video.onloadedmetadata = () => {
    const { duration, videoWidth } = video;
    if (Number.isFinite(duration)) setLength(Math.max(length, duration));
    if (Math.abs(duration - data.seconds) > Math.max(3, 0.05 * data.seconds))
      say(`${name} is ${clockTime(duration)} long, but the features are ${clockTime(data.seconds)}: is it the right video?`);
    else if (!videoWidth) say(`The browser plays only the sound of ${name}: it does not know the format of its pictures.`);
  };
  get("missing").hidden = true;
  video.hidden = false;
  video.src = address;
  video.currentTime = wasAt;
  player = video;
  showPlaying();
}

let opened = null; // the address of a file that was chosen
function openFile(file) {
  if (!file) return;
  if (opened) URL.revokeObjectURL(opened);
  opened = URL.createObjectURL(file);
  open(opened, file.name);
}

get("file").addEventListener("change", () => openFile(get("file").files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openFile(event.dataTransfer.files[0]);
});

// ---------------------------------------------------------------------------------------------- the timeline

const AXIS = 30, CURVE = 40, GAP = 10, HEADER = 20, BETWEEN = 2, MOST_LANES = 12, PAD = 14;
const timeline = get("timeline"), canvas = get("canvas"), paint = canvas.getContext("2d");
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200];
let zoom = 1;
const mostZoom = () => Math.max(1, length / 2); // two seconds are seen
let gutter = 0; // width of the column of names; 0 where the names stand above
let rows = []; // of the timeline, from the top: curves, then classes
let colours = {};

/** Give each detection the first lane of its class that has room, the best first; so none moves with the slider. */
function packLanes() {
  const taken = data.classes.map(() => []); // of each class: lanes, of segments by time
  for (const one of detections) {
    const lanes = taken[one.group];
    one.lane = lanes.findIndex((lane) => insert(lane, one));
    if (one.lane < 0) one.lane = lanes.push([one]) - 1;
    if (one.lane >= MOST_LANES) lanes.pop();
  }
}

/** Insert a segment into a lane if it overlaps no other. */
function insert(lane, one) {
  let low = 0, high = lane.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lane[middle].start < one.start) low = middle + 1;
    else high = middle;
  }
  if ((low && lane[low - 1].end > one.start) || (low < lane.length && lane[low].start < one.end)) return false;
  lane.splice(low, 0, one);
  return true;
}

/** Where the rows are; a class without detections that are shown has none. */
function layOut() {
  gutter = timeline.clientWidth >= 640 ? 168 : 0;
  const header = gutter ? 0 : HEADER;
  const groups = data.classes.map(([name, colour]) => ({ name, colour, header, members: [], hidden: 0, lanes: 0 }));
  for (const one of shown) {
    const group = groups[one.group];
    if (one.lane < MOST_LANES) group.members.push(one);
    else group.hidden += 1;
    group.lanes = Math.max(group.lanes, Math.min(MOST_LANES, one.lane + 1));
  }
  const most = Math.max(1, ...data.count);
  rows = [
    { name: "Proposals", note: `at most ${most} at a time`, header, height: CURVE, values: data.count.map((n) => n / most) },
    { name: "Attention", note: "0 to 1", header, height: CURVE, values: data.attention, strong: true },
  ];
  if (!data.proposals) rows = [];
  for (const group of groups.filter((one) => one.lanes)) {
    group.lane = group.lanes > 6 ? 8 : group.lanes > 2 ? 12 : 20;
    group.height = Math.max(gutter ? 34 : 0, group.lanes * (group.lane + BETWEEN) - BETWEEN);
    const all = group.members.length + group.hidden;
    group.note = group.hidden ? `${all}, ${group.hidden} only in the list` : counted(all, "detection");
    rows.push(group);
  }
  let top = AXIS + GAP;
  for (const row of rows) {
    row.top = top + header;
    top = row.top + row.height + GAP + 4;
  }
  get("extent").style.height = `${Math.max(top, 120)}px`;
  get("extent").style.width = `${gutter + PAD + plotWidth() * zoom}px`;
}

const plotWidth = () => timeline.clientWidth - gutter - PAD - (gutter ? 0 : PAD);
const left = () => gutter || PAD;
const xOf = (time) => left() + (time / length) * plotWidth() * zoom - timeline.scrollLeft;
const timeAt = (x) => ((x - left() + timeline.scrollLeft) / plotWidth() / zoom) * length;

let isDue = false;
function drawSoon() {
  if (!isDue) requestAnimationFrame(draw);
  isDue = true;
}

function draw() {
  isDue = false;
  const width = timeline.clientWidth, height = timeline.clientHeight, scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    for (const box of [canvas, get("window")]) {
      box.style.width = `${width}px`;
      box.style.height = `${height}px`;
    }
  }
  paint.setTransform(scale, 0, 0, scale, 0, 0);
  paint.clearRect(0, 0, width, height);
  const marks = ticks();
  paint.fillStyle = colours.grid;
  for (const { x } of marks) paint.fillRect(Math.round(x), AXIS, 1, height);
  paint.save();
  paint.beginPath();
  paint.rect(gutter ? gutter - 2 : 0, 0, width, height);
  paint.clip();
  for (const row of rows) {
    const top = row.top - timeline.scrollTop;
    if (top + row.height < 0 || top - HEADER > height) continue;
    if (row.values) drawCurve(row, top);
    else drawBars(row, top, width);
  }
  paint.restore();
  for (const row of rows) drawName(row, row.top - timeline.scrollTop);
  drawAxis(marks, width);
  placePlayhead();
}

function ticks() {
  const each = STEPS.find((one) => (one / length) * plotWidth() * zoom >= 76) || STEPS[STEPS.length - 1];
  const marks = [];
  const to = Math.min(length, timeAt(timeline.clientWidth));
  for (let i = Math.max(0, Math.floor(timeAt(left()) / each)); i * each <= to; i++)
    marks.push({ x: xOf(i * each), label: clockTime(i * each, each < 1 ? 1 : 0) });
  return marks.filter(({ x }) => x >= left() - 1);
}

function drawAxis(marks, width) {
  paint.fillStyle = colours.panel;
  paint.fillRect(0, 0, width, AXIS);
  paint.fillStyle = colours.line;
  paint.fillRect(0, AXIS - 1, width, 1);
  paint.fillStyle = colours.soft;
  paint.font = `12px ${colours.font}`;
  paint.direction = "ltr";
  for (const { x, label } of marks) {
    const half = paint.measureText(label).width / 2;
    paint.fillText(label, Math.max(4, Math.min(width - 2 * half - 4, x - half)), 15);
  }
}

function drawCurve(row, top) {
  const bottom = top + row.height, n = row.values.length;
  const at = (i) => Math.round(xOf((i * data.seconds) / n)); // else there were seams between the parts
  const from = Math.max(0, Math.floor((timeAt(0) / data.seconds) * n) - 1);
  const to = Math.min(n, Math.ceil((timeAt(timeline.clientWidth) / data.seconds) * n) + 1);
  const outline = new Path2D();
  paint.fillStyle = row.strong ? colours.accentTint : colours.faint;
  let isOpen = false;
  for (let i = from; i < to; i++) {
    const value = row.values[i];
    if (value !== null) {
      const x = at(i), y = bottom - value * row.height;
      outline[isOpen ? "lineTo" : "moveTo"](x, y);
      outline.lineTo(at(i + 1), y);
      paint.fillRect(x, y, at(i + 1) - x, bottom - y);
    }
    isOpen = value !== null;
  }
  paint.strokeStyle = row.strong ? colours.link : colours.soft;
  paint.lineWidth = 1.25;
  paint.stroke(outline);
  paint.fillStyle = colours.line;
  paint.fillRect(left(), bottom, plotWidth() * zoom, 1);
}

/** The box of a detection on the canvas, at least three pixels wide. */
function boxOf(one, row, top) {
  const x = xOf(one.start);
  return [x, top + one.lane * (row.lane + BETWEEN), Math.max(3, xOf(one.end) - x), row.lane];
}

function drawBars(row, top, width) {
  const colour = colours.classes[row.colour];
  const drawn = row.members.map((one) => [one, boxOf(one, row, top)]).filter(([, [x, , w]]) => x + w >= 0 && x <= width);
  paint.fillStyle = paint.strokeStyle = colour;
  paint.lineWidth = 1;
  for (const [one, [x, y, w, h]] of drawn) {
    paint.globalAlpha = w > 5 ? 0.25 + 0.75 * share(one) : 0.5 + 0.5 * share(one);
    paint.fillRect(x, y, w, h);
    paint.globalAlpha = 1;
    if (w > 5) paint.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
  }
  for (const [one, [x, y, w, h]] of drawn)
    if (one === current) {
      paint.strokeStyle = colours.ink;
      paint.lineWidth = 2;
      paint.strokeRect(x - 2, y - 2, w + 4, h + 4);
    }
}

function drawName(row, top) {
  const room = gutter ? gutter - 24 : timeline.clientWidth - 2 * PAD;
  paint.direction = /^[^\p{L}]*[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}]/u.test(row.name) ? "rtl" : "ltr";
  paint.textAlign = "left";
  let x = 10, y = gutter ? top + 13 : top - 7;
  if (row.colour !== undefined) {
    paint.fillStyle = colours.classes[row.colour];
    paint.fillRect(x, y - 9, 10, 10);
    x += 16;
  }
  paint.fillStyle = colours.ink;
  paint.font = `600 13px ${colours.font}`;
  const name = fitted(row.name, room - x - (gutter ? -14 : 120));
  paint.fillText(name, x, y);
  const nameWidth = paint.measureText(name).width;
  paint.fillStyle = colours.soft;
  paint.font = `12px ${colours.font}`;
  paint.direction = "ltr";
  if (gutter) paint.fillText(fitted(row.note, room), 10, y + 17);
  else paint.fillText(fitted(row.note, room - x - nameWidth), x + nameWidth + 8, y);
}

/** Text cut to a width on the canvas. */
function fitted(content, room) {
  if (paint.measureText(content).width <= room) return content;
  const letters = [...content];
  while (letters.length > 1 && paint.measureText(`${letters.join("")}…`).width > room) letters.pop();
  return `${letters.join("")}…`;
}

function placePlayhead() {
  const x = xOf(now());
  get("playhead").style.transform = `translateX(${x}px)`;
  get("playhead").hidden = x < left() - 1 || x > timeline.clientWidth;
}

/** Scroll the timeline so that the present moment is seen. */
function follow() {
  const x = xOf(now());
  if (zoom > 1 && (x < left() || x > timeline.clientWidth - PAD)) timeline.scrollLeft += x - left() - 0.1 * plotWidth();
}

/** Zoom, and keep the time that is at a place of the timeline there. */
function setZoom(value, x = xOf(now())) {
  if (x < left() || x > timeline.clientWidth) x = left() + plotWidth() / 2;
  const time = timeAt(x);
  zoom = Math.min(mostZoom(), Math.max(1, value));
  layOut();
  timeline.scrollLeft = left() + (time / length) * plotWidth() * zoom - x;
  get("zoom-out").disabled = get("zoom-fit").disabled = zoom <= 1;
  get("zoom-in").disabled = zoom >= mostZoom();
  drawSoon();
}

function setLength(seconds) {
  length = seconds;
  get("length").textContent = `of ${clockTime(length)}`;
  layOut();
  drawSoon();
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  colours = Object.fromEntries(["ink", "soft", "line", "link", "panel", "grid", "faint"].map((name) => [name, of(name)]));
  colours.accentTint = of("accent-tint");
  colours.classes = Array.from({ length: 7 }, (_, i) => of(`class-${i}`));
  colours.font = getComputedStyle(document.body).fontFamily;
}

/** What is at a place of the timeline: a detection within reach, else a time. */
function at(event, reach) {
  const frame = timeline.getBoundingClientRect();
  const x = event.clientX - frame.left - timeline.clientLeft, y = event.clientY - frame.top - timeline.clientTop;
  let found = null, closest = reach * reach;
  if (y > AXIS && x > left() - reach)
    for (const row of rows)
      for (const one of row.members || []) {
        const [bx, by, w, h] = boxOf(one, row, row.top - timeline.scrollTop);
        const dx = Math.max(0, bx - x, x - bx - w), dy = Math.max(0, by - y, y - by - h);
        const far = dx * dx + dy * dy;
        if (far < closest || (far === closest && found && one.score > found.score)) [found, closest] = [one, far];
      }
  return { one: found, time: Math.min(length, Math.max(0, timeAt(x))), x, y };
}

timeline.addEventListener("click", (event) => {
  const { one, time, x } = at(event, event.pointerType === "mouse" ? 4 : 20);
  if (one) choose(one);
  else if (x >= left() - 4) seek(time);
});
timeline.addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch") return;
  const { one, time, x } = at(event, 4);
  timeline.style.cursor = one ? "pointer" : "";
  const part = Math.min(data.count.length - 1, Math.floor((time / data.seconds) * data.count.length));
  const attention = data.attention[part];
  const line = [clockTime(time), counted(data.count[part], "proposal")];
  if (attention !== null) line.push(`attention ${attention.toFixed(2)}`);
  if (one) showTip(event, nameOf(one), `${spanOf(one)} (${(one.end - one.start).toFixed(1)} s), score ${scoreText(one.score)}`);
  else if (x >= left()) showTip(event, "", line.join(" · "));
  else get("tip").hidden = true;
});
timeline.addEventListener("pointerleave", () => (get("tip").hidden = true));
timeline.addEventListener("scroll", drawSoon, { passive: true });
timeline.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  setZoom(zoom * Math.exp(-event.deltaY / 200), event.clientX - timeline.getBoundingClientRect().left);
}, { passive: false });

function showTip(event, title, line) {
  const tip = get("tip");
  tip.replaceChildren(...(title ? [text(title, { class: "name" })] : []), element("span", {}, line));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(document.documentElement.clientWidth - width - 4, event.clientX + 12))}px`;
  const below = event.clientY + 18;
  tip.style.top = `${below + height > window.innerHeight ? event.clientY - height - 12 : below}px`;
}

// ------------------------------------------------------------------------------------- the list and the slider

const EACH = 100; // rows of the list that are made at a time
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
