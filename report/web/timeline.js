// The timeline: curves of proposals and attention, and the bars of the detections that are shown, on one canvas that is
// as large as what is seen of it.

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

/** Where the rows are: a class has one if any of its detections is shown, as high as what is seen of it needs. */
function layOut() {
  gutter = timeline.clientWidth >= 900 ? 200 : timeline.clientWidth >= 640 ? 168 : 0;
  const header = gutter ? 0 : HEADER;
  const from = timeAt(left()), to = timeAt(timeline.clientWidth);
  const groups = data.classes.map(([name, colour]) => ({ name, colour, header, members: [], hidden: 0, lanes: 0 }));
  for (const one of shown) {
    const group = groups[one.group];
    if (one.lane < MOST_LANES) group.members.push(one);
    else group.hidden += 1;
    const isSeen = one.end >= from && one.start <= to;
    group.lanes = Math.max(group.lanes, isSeen ? Math.min(MOST_LANES, one.lane + 1) : 1);
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
  get("extent").style.width = `${extentWidth()}px`;
}

const extentWidth = () => left() + plotWidth() * zoom + PAD;
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
  const drawn = row.members.filter((one) => one.lane < row.lanes).map((one) => [one, boxOf(one, row, top)]).filter(([, [x, , w]]) => x + w >= 0 && x <= width);
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
  get("extent").style.width = `${extentWidth()}px`; // else it could not be scrolled as far
  timeline.scrollLeft = left() + (time / length) * plotWidth() * zoom - x;
  layOut();
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
        if (one.lane >= row.lanes) continue;
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
  const { one, time, x, y } = at(event, 4);
  const name = rows.find((row) => x < left() && y + timeline.scrollTop > row.top && y + timeline.scrollTop < row.top + row.height);
  timeline.style.cursor = one ? "pointer" : "";
  const part = Math.floor((time / data.seconds) * data.count.length), attention = data.attention[part];
  const line = [clockTime(time)];
  if (part < data.count.length) line.push(counted(data.count[part], "proposal"));
  if (attention != null) line.push(`attention ${attention.toFixed(2)}`);
  if (one) showTip(event, nameOf(one), `${spanOf(one)} (${(one.end - one.start).toFixed(1)} s), score ${scoreText(one.score)}`);
  else if (x >= left()) showTip(event, "", line.join(" · "));
  else if (name) showTip(event, name.name, name.note);
  else get("tip").hidden = true;
});
timeline.addEventListener("pointerleave", () => (get("tip").hidden = true));
let scrolled; // lanes change their heights when scrolling has ended, so that nothing jumps meanwhile
timeline.addEventListener("scroll", () => {
  drawSoon();
  clearTimeout(scrolled);
  scrolled = setTimeout(() => (layOut(), drawSoon()), 150);
}, { passive: true });
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

