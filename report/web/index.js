// The index of the pages: a table that can be searched and sorted.

const MOST_CLASSES = 6; // of a video, unless a class is searched for
const names = new Intl.Collator(undefined, { numeric: true });
const videos = data.videos.map(([name, file, seconds, detections, best]) => ({ name, file, seconds, detections, best }));
let most = EACH, found = [];

/** What a video's best detection, or that of the class that is searched for, scores. */
function scoreOf(video, wanted) {
  const one = wanted === "" ? video.best[0] : video.best.find(([index]) => String(index) === wanted);
  return one ? one[1] : -Infinity;
}

const ORDERS = {
  given: () => 0,
  name: (a, b) => names.compare(a.name, b.name),
  score: (a, b) => scoreOf(b, get("class").value) - scoreOf(a, get("class").value) || 0,
  seconds: (a, b) => b.seconds - a.seconds,
  detections: (a, b) => b.detections - a.detections,
};

function search() {
  const words = get("search").value.toLocaleLowerCase().normalize("NFC").split(/\s+/).filter(Boolean);
  const wanted = get("class").value;
  found = videos.filter((video) => {
    const name = video.name.toLocaleLowerCase().normalize("NFC");
    return words.every((word) => name.includes(word)) && (wanted === "" || scoreOf(video, wanted) > -Infinity);
  });
  found.sort(ORDERS[get("order").value]);
  most = EACH;
  get("counted").textContent = found.length === videos.length ? "" : `${found.length} of ${counted(videos.length, "video")}`;
  list();
}

function list() {
  get("rows").replaceChildren(...found.slice(0, most).map(makeRow));
  get("more").hidden = found.length <= most;
  get("more").textContent = `Show ${Math.min(EACH, found.length - most)} more`;
}

function makeRow(video) {
  const wanted = get("class").value;
  const best = wanted === "" ? video.best.slice(0, MOST_CLASSES) : video.best.filter(([index]) => String(index) === wanted);
  const chips = best.map(([index, score, start, end]) =>
    element("a", { class: "chip", href: `${video.file}#t=${start},${end}` },
      text(data.classes[index]), element("span", { class: "soft" }, `${scoreText(score)} at ${clockTime(start, 0)}`)));
  const others = video.best.length - best.length;
  return element("tr", {},
    element("th", { scope: "row" }, element("a", { href: video.file }, text(video.name))),
    element("td", {}, clockTime(video.seconds, 0)),
    element("td", { class: "number" }, video.detections.toLocaleString("en")),
    element("td", {}, ...chips, ...(others > 0 && wanted === "" ? [element("span", { class: "soft" }, `and ${others} more`)] : [])),
  );
}

const used = [...new Set(videos.flatMap((video) => video.best.map(([index]) => index)))];
for (const index of used.sort((a, b) => names.compare(data.classes[a], data.classes[b])))
  get("class").append(element("option", { value: index }, data.classes[index]));
get("class").addEventListener("change", () => {
  if (get("class").value !== "" && get("order").value === "given") get("order").value = "score";
  search();
});
for (const id of ["search", "order"]) get(id).addEventListener("input", search);
get("more").addEventListener("click", () => {
  most += EACH;
  list();
});
const all = videos.reduce((sum, video) => sum + video.detections, 0);
get("summary").textContent = `${counted(videos.length, "video")} · ${counted(all, "detection")}`;
search();
