// Keeps the console's pages fresh. Without it they are all there, and as fresh as their last load.
(() => {
  "use strict";

  // --- putting new markup in place of old -----------------------------------------------------------------
  // Changes only what differs, so that focus, scroll positions, ticked boxes and open details stay as they are.
  const morph = (from, to) => {
    if (from.isEqualNode(to)) return;
    if (from.nodeName !== to.nodeName || from.id !== to.id) {
      from.replaceWith(to);
    } else if (from.nodeType !== Node.ELEMENT_NODE) {
      from.nodeValue = to.nodeValue;
    } else if (!from.hasAttribute("data-keep")) {
      morphAttributes(from, to);
      morphChildren(from, to);
    }
  };

  const OWN = { DETAILS: ["open"], TR: ["class"] }; // what a person, or Django's script, changes on the page

  const morphAttributes = (from, to) => {
    const kept = OWN[from.nodeName] || [];
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !kept.includes(name)) from.removeAttribute(name);
    }
    for (const { name, value } of [...to.attributes]) {
      if (from.getAttribute(name) !== value && !kept.includes(name)) from.setAttribute(name, value);
    }
  };

  const morphChildren = (from, to) => {
    const wanted = [...to.childNodes];
    wanted.forEach((node, index) => {
      const current = from.childNodes[index];
      if (current) morph(current, node);
      else from.append(node);
    });
    while (from.childNodes.length > wanted.length) from.lastChild.remove();
  };

  // --- asking again and again ----------------------------------------------------------------------------
  // `refresh` resolves to false when there is nothing left to wait for. A failure is shown, and tried again later.
  const keepFresh = (every, refresh) => {
    let failures = 0;
    const round = async () => {
      let wait = every;
      if (document.visibilityState === "visible") {
        try {
          if ((await refresh()) === false) return;
          failures = 0;
        } catch {
          failures += 1;
          wait = every * Math.min(2 ** failures, 8);
        }
        showConnection(failures === 0);
      }
      setTimeout(round, wait);
    };
    setTimeout(round, every);
  };

  const showConnection = (well) => {
    for (const note of document.querySelectorAll("[data-live-note]")) {
      note.hidden = well;
      note.textContent = well ? "" : note.dataset.lost;
    }
  };

  const fetchPage = async (url, headers = {}) => {
    const response = await fetch(url, { headers, cache: "no-store", credentials: "same-origin" });
    if (response.redirected) {
      location.reload(); // signed out: the reload leads to the sign-in page and back here
      throw new Error("signed out");
    }
    if (!response.ok) throw new Error(`status ${response.status}`);
    return new DOMParser().parseFromString(await response.text(), "text/html");
  };

  // --- the list of jobs ----------------------------------------------------------------------------------
  const rowId = (body) => body.querySelector("[data-row]")?.dataset.row;
  let rounds = 0;

  // An ended job's row says nothing new but how long ago that was: it is asked for now and then.
  const knownRows = () => {
    rounds += 1;
    const ended = rounds % 15 ? document.querySelectorAll('[data-ended="yes"]') : [];
    return [...ended].map((cell) => cell.dataset.row).join(",");
  };

  const refreshList = async () => {
    const fresh = await fetchPage(location.href, { "X-Trainyard-Rows": knownRows() });
    const [chips, freshChips] = [document.getElementById("at-work"), fresh.getElementById("at-work")];
    if (chips && freshChips) morph(chips, freshChips);
    const table = document.getElementById("result_list");
    const order = fresh.getElementById("row-order").dataset.order.split(",").filter(Boolean);
    if (!table && order.length) location.reload(); // the first jobs of an empty list
    if (table) putRows(table, order, fresh.getElementById("result_list"));
  };

  const putRows = (table, order, freshTable) => {
    const bodies = (source) => new Map([...(source?.tBodies || [])].map((body) => [rowId(body), body]));
    const [old, news] = [bodies(table), bodies(freshTable)];
    let place = table.tHead;
    for (const id of order) {
      const row = old.get(id) || document.adoptNode(news.get(id));
      if (place.nextElementSibling !== row) place.after(row);
      if (news.has(id) && news.get(id) !== row) morph(row, news.get(id));
      old.delete(id);
      place = row;
    }
    for (const body of old.values()) {
      if (!body.querySelector("input.action-select:checked")) body.remove(); // a ticked row is somebody's plan
    }
  };

  // --- the page of a job ---------------------------------------------------------------------------------
  const refreshPage = async (page) => {
    const url = new URL(page.dataset.liveUrl, location.href);
    if (page.dataset.attempt) url.searchParams.set("attempt", page.dataset.attempt);
    for (const part of page.querySelectorAll("[data-version]")) {
      url.searchParams.set(part.dataset.part, part.dataset.version);
    }
    const fresh = await fetchPage(url);
    for (const part of [...fresh.querySelectorAll("[data-part]")]) putPart(part);
    drawCharts();
    announce(page);
    return document.getElementById("part-head").dataset.live === "1";
  };

  const putPart = (part) => {
    const current = document.getElementById(part.id);
    if (!current || (part.dataset.part === "log" && isSelectedIn(current))) return;
    const log = document.getElementById("log-lines");
    const atEnd = !log || log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    morph(current, part);
    if (part.dataset.part === "log" && atEnd) scrollLogToEnd();
  };

  const isSelectedIn = (element) => {
    const selection = getSelection();
    return !selection.isCollapsed && element.contains(selection.anchorNode);
  };

  const scrollLogToEnd = () => {
    const log = document.getElementById("log-lines");
    if (log) log.scrollTop = log.scrollHeight;
  };

  const announce = (page) => {
    const [said, place] = [document.getElementById("part-head").dataset.say, page.querySelector("[data-announce]")];
    if (place.dataset.last && place.dataset.last !== said) place.textContent = said;
    place.dataset.last = said;
  };

  // --- charts --------------------------------------------------------------------------------------------
  const charts = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const asDataset = (curve) => ({
    label: curve.label,
    data: curve.values,
    borderColor: colour(`--ty-line-${(curve.colour % 6) + 1}`),
    backgroundColor: "transparent",
    borderDash: curve.dashed ? [5, 4] : [],
    borderWidth: 2,
    pointRadius: curve.values.length > 1 ? 0 : 3,
    pointHitRadius: 8,
  });

  const chartOptions = () => {
    const [words, lines] = [colour("--ty-muted"), colour("--ty-line")];
    return {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { ticks: { color: words, maxTicksLimit: 10 }, grid: { color: lines } },
        y: { ticks: { color: words, maxTicksLimit: 6 }, grid: { color: lines }, beginAtZero: true },
      },
      plugins: { legend: { position: "bottom", labels: { color: words, boxWidth: 18, boxHeight: 1 } } },
    };
  };

  const drawCharts = () => {
    const source = document.getElementById("curves-data");
    if (!source || !window.Chart) return;
    const data = JSON.parse(source.textContent);
    for (const canvas of document.querySelectorAll("canvas[data-chart]")) {
      const curves = data.charts[canvas.dataset.chart] || [];
      canvas.closest("figure").hidden = curves.length === 0;
      const chart = charts.get(canvas) || new Chart(canvas, { type: "line", data: {}, options: chartOptions() });
      charts.set(canvas, chart);
      chart.data = { labels: data.epochs, datasets: curves.map(asDataset) };
      chart.update("none");
    }
  };

  const recolourCharts = () => {
    for (const chart of charts.values()) chart.options = chartOptions();
    drawCharts();
  };

  // --- the form for a new job ----------------------------------------------------------------------------
  const narrow = (select, fits) => {
    for (const option of select.options) {
      const out = option.value !== "" && !fits(option);
      option.hidden = option.disabled = out;
      if (out && option.selected) select.value = "";
    }
    for (const group of select.querySelectorAll("optgroup")) {
      group.hidden = [...group.children].every((option) => option.hidden);
    }
    if (select.value === "") select.value = [...select.options].find((option) => !option.disabled)?.value ?? "";
  };

  const startForm = (models) => {
    const byTask = JSON.parse(models.textContent);
    const taskOf = JSON.parse(document.getElementById("tasks-by-dataset").textContent);
    const [task, model, project, dataset] = ["task_type", "model_name", "project", "dataset"].map((name) =>
      document.getElementById(`id_${name}`),
    );
    const version = document.getElementById("id_version");
    const narrowModels = () => {
      const [family] = model.value.split("-");
      narrow(model, (option) => (byTask[task.value] || []).includes(option.value));
      // The model of the same family and size for this task: yolo11n becomes yolo11n-seg.
      const sibling = [...model.options].find((option) => !option.disabled && option.value.split("-")[0] === family);
      if (sibling) model.value = sibling.value;
    };
    // A dataset is labelled for one task, so that choosing it chooses the task too.
    const followDataset = () => {
      if (taskOf[dataset.value]) task.value = taskOf[dataset.value];
      narrowModels();
    };
    const narrowDatasets = () => {
      const name = project.selectedOptions[0]?.text;
      narrow(dataset, (option) => !project.value || option.parentElement.label === name);
    };
    task.addEventListener("change", narrowModels);
    dataset.addEventListener("change", () => {
      version.value = ""; // it was that of the dataset before
      followDataset();
    });
    project.addEventListener("change", () => {
      narrowDatasets();
      followDataset();
    });
    narrowDatasets();
    followDataset();
  };

  // --- starting ------------------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const question = event.target.closest?.("[data-confirm]")?.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });

  document.addEventListener("DOMContentLoaded", () => {
    const list = document.querySelector("[data-live-list]");
    if (list) keepFresh(Number(list.dataset.liveList), refreshList);
    const models = document.getElementById("models-by-task");
    if (models) startForm(models);
    const page = document.querySelector("[data-live-page]");
    if (!page) return;
    drawCharts();
    scrollLogToEnd();
    announce(page);
    new MutationObserver(recolourCharts).observe(document.documentElement, { attributeFilter: ["class"] });
    if (document.getElementById("part-head").dataset.live === "1") {
      keepFresh(Number(page.dataset.livePage), () => refreshPage(page));
    }
  });
})();
