// Sends an archive into a dataset, part by part: to the store itself where it gives signed addresses, else through the
// platform. What has arrived is asked of the platform, so that an upload goes on after a reload or on another day.
(() => {
  "use strict";

  const AT_A_TIME = 4;
  const ADDRESSES_AT_ONCE = 32;
  const TRIES = 8; // of one part in a row; waits add up to about two minutes
  const LONGEST_WAIT = 30_000;
  const SPEED_OVER = 10_000; // ms

  class Problem extends Error {
    constructor(message, { status = 0, final = false } = {}) {
      super(message);
      this.status = status;
      this.final = final; // trying again would not help
    }
  }

  const wait = (ms) => new Promise((done) => setTimeout(done, ms));

  const isOwn = (url) => new URL(url, location.href).origin === location.origin;

  // --- words ----------------------------------------------------------------------------------------------
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

  const language = document.documentElement.lang || undefined;

  const bytes = (number) => {
    const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
    const power = Math.min(Math.floor(Math.log2(Math.max(number, 1)) / 10), units.length - 1);
    const options = { style: "unit", unit: units[power], unitDisplay: "short", maximumFractionDigits: power > 1 ? 1 : 0 };
    return new Intl.NumberFormat(language, options).format(number / 1024 ** power);
  };

  const duration = (seconds) => {
    const [number, unit] = seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
    const options = { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: unit === "hour" ? 1 : 0 };
    return new Intl.NumberFormat(language, options).format(Math.max(number, 1));
  };

  // --- speaking with the platform -------------------------------------------------------------------------
  const token = () => document.querySelector("[name=csrfmiddlewaretoken]").value;

  const told = async (response) => {
    try {
      const problem = await response.json();
      const fields = Object.values(problem.errors || {}).flat();
      return fields.join(" ") || problem.detail || problem.title;
    } catch {
      return `HTTP ${response.status}`;
    }
  };

  const isFinal = (status) => status >= 400 && status < 500 && ![408, 429].includes(status);

  const ask = async (method, url, body) => {
    const headers = { Accept: "application/json", "X-CSRFToken": token() };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(url, {
        method, headers, credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      throw new Problem(String(error.message || error));
    }
    if (!response.ok) {
      throw new Problem(await told(response), { status: response.status, final: isFinal(response.status) });
    }
    return response.status === 204 ? null : response.json();
  };

  const persistently = async (action, isWanted) => {
    for (let failures = 0; ; ) {
      try {
        return await action();
      } catch (problem) {
        failures += 1;
        if (problem.final || failures >= TRIES || !isWanted()) throw problem;
        await wait(Math.min(1000 * 2 ** (failures - 1), LONGEST_WAIT) * (0.5 + Math.random() / 2));
        if (!isWanted()) throw problem;
      }
    }
  };

  // --- one upload -----------------------------------------------------------------------------------------
  // `ui` is told: progress(done, size, bytes a second), problem(text), over().
  class Upload {
    constructor(file, addresses, ui) {
      Object.assign(this, { file, addresses, ui });
      this.requests = new Set();
      this.signed = new Map();
      this.sending = new Map(); // part → bytes on their way
      this.arrived = new Set();
      this.samples = [];
      this.state = "new"; // going, paused, over
    }

    get going() {
      return this.state === "going";
    }

    async start() {
      this.state = "going";
      const begun = await ask("POST", this.addresses.imports, { filename: this.file.name, size: this.file.size });
      this.import = begun;
      this.partSize = begun.part_size;
      this.count = begun.part_count;
      for (const part of begun.parts) {
        if (part.size === this.sizeOf(part.number)) this.arrived.add(part.number);
      }
      return this.send();
    }

    get url() {
      return fill(this.addresses.import, { id: this.import.id });
    }

    startOf(number) {
      return (number - 1) * this.partSize;
    }

    sizeOf(number) {
      return Math.min(this.partSize, this.file.size - this.startOf(number));
    }

    // Sends what has not arrived, and completes the upload. Returns when it is over or paused.
    async send() {
      this.state = "going";
      this.samples = [];
      this.tell();
      this.queue = [];
      for (let number = 1; number <= this.count; number += 1) if (!this.arrived.has(number)) this.queue.push(number);
      const run = (this.run = {}); // what waits to try again must not wake up in a later run
      const isWanted = () => this.going && this.run === run;
      try {
        await Promise.all(Array.from({ length: Math.min(AT_A_TIME, this.queue.length) }, () => this.work(isWanted)));
        if (!isWanted()) return;
        await persistently(() => ask("POST", `${this.url}/complete`), isWanted);
        this.state = "over";
        this.ui.over();
      } catch (problem) {
        if (!isWanted()) return; // paused or given up: what was on its way was broken off
        this.pause();
        this.ui.problem(problem.message);
      }
    }

    async work(isWanted) {
      while (isWanted() && this.queue.length) {
        const number = this.queue.shift();
        await persistently(() => this.sendPart(number), isWanted);
        if (!isWanted()) return;
        this.arrived.add(number);
        this.sending.delete(number);
        this.tell();
      }
    }

    async sendPart(number) {
      const url = await this.addressOf(number);
      const start = this.startOf(number);
      const blob = this.file.slice(start, start + this.sizeOf(number));
      try {
        await this.put(url, blob, number);
      } catch (problem) {
        this.sending.delete(number);
        this.signed.delete(number); // it may have expired
        if (this.going && !problem.status) await this.checkFile(start);
        throw problem;
      }
    }

    async addressOf(number) {
      if (!this.signed.has(number)) {
        const numbers = [number, ...this.queue.filter((each) => !this.signed.has(each)).slice(0, ADDRESSES_AT_ONCE - 1)];
        const { urls } = await ask("POST", `${this.url}/parts`, { numbers });
        for (const [each, url] of Object.entries(urls)) this.signed.set(Number(each), url);
      }
      return this.signed.get(number);
    }

    put(url, blob, number) {
      return new Promise((resolve, reject) => {
        const request = new XMLHttpRequest();
        const own = isOwn(url);
        request.open("PUT", url);
        request.withCredentials = false; // a store's address is signed, and gets none; one of our own has them anyway
        if (own) {
          request.setRequestHeader("X-CSRFToken", token());
          request.setRequestHeader("Content-Type", "application/octet-stream");
        }
        request.upload.onprogress = (event) => {
          this.sending.set(number, event.loaded);
          this.tell();
        };
        request.onload = () => {
          if (request.status < 300) return resolve();
          // A signed address that has expired is refused too: then another one helps.
          const final = own && isFinal(request.status);
          return reject(new Problem(this.refusal(request), { status: request.status, final }));
        };
        request.onerror = () => reject(new Problem(this.addresses.words.unreachable));
        request.onabort = () => reject(new Problem("", { final: true }));
        request.onloadend = () => this.requests.delete(request);
        this.requests.add(request);
        request.send(blob);
      });
    }

    refusal(request) {
      try {
        return JSON.parse(request.responseText).detail;
      } catch {
        return fill(this.addresses.words.refused, { status: request.status });
      }
    }

    // A file that was moved or changed since it was chosen fails as the network does.
    async checkFile(start) {
      try {
        await this.file.slice(start, start + 1).arrayBuffer();
      } catch {
        throw new Problem(this.addresses.words.unreadable, { final: true });
      }
    }

    pause() {
      this.state = "paused";
      for (const request of this.requests) request.abort();
      this.sending.clear();
    }

    async giveUp() {
      this.pause();
      if (this.import) await ask("DELETE", this.url);
      this.state = "over";
    }

    tell() {
      let done = 0;
      for (const number of this.arrived) done += this.sizeOf(number);
      for (const [number, sent] of this.sending) done += Math.min(sent, this.sizeOf(number));
      const now = performance.now();
      this.samples.push([now, done]);
      while (this.samples.length > 2 && now - this.samples[0][0] > SPEED_OVER) this.samples.shift();
      const [since, before] = this.samples[0];
      const speed = now - since > 500 ? ((done - before) * 1000) / (now - since) : null;
      this.ui.progress(done, this.file.size, speed);
    }
  }

  // --- the page -------------------------------------------------------------------------------------------
  const startPage = (place) => {
    const words = JSON.parse(document.getElementById("upload-words").textContent);
    const addresses = { imports: place.dataset.imports, import: place.dataset.import, words };
    const part = (name) => place.querySelector(`[data-upload="${name}"]`);
    const [zone, input, panel, bar, error] = ["zone", "file", "panel", "bar", "error"].map(part);
    let upload = null;
    let spoken = -1;

    const say = (text) => (part("say").textContent = text);

    const fail = (text) => {
      error.hidden = !text;
      error.textContent = text;
    };

    const showState = () => {
      const open = upload !== null && upload.state !== "over";
      panel.hidden = !open;
      zone.hidden = open;
      part("pause").hidden = !upload?.going;
      part("resume").hidden = upload?.state !== "paused";
      if (upload?.state === "paused") part("speed").textContent = words.paused;
    };

    const ui = {
      progress(done, size, speed) {
        const share = size ? done / size : 0;
        bar.value = share;
        const percent = Math.floor(share * 100);
        part("percent").textContent = fill(words.percent, { percent, done: bytes(done), size: bytes(size) });
        if (speed) {
          const left = speed > 0 ? fill(words.left, { time: duration((size - done) / speed) }) : "";
          part("speed").textContent = [`${bytes(speed)}/s`, done < size ? left : ""].filter(Boolean).join(" · ");
        }
        if (Math.floor(percent / 10) !== spoken) {
          spoken = Math.floor(percent / 10);
          say(`${percent} %`);
        }
        showState();
      },
      problem(text) {
        fail(fill(words.stopped, { why: text }));
        showState();
      },
      over() {
        say(words.over);
        input.value = "";
        showState();
      },
    };

    const begin = async (file) => {
      if (upload && upload.state !== "over") return;
      fail("");
      spoken = -1;
      part("name").textContent = file.name;
      part("percent").textContent = part("speed").textContent = "";
      bar.removeAttribute("value");
      const mine = new Upload(file, addresses, ui);
      upload = mine;
      const starting = mine.start();
      showState();
      part("pause").focus();
      try {
        await starting;
      } catch (problem) {
        mine.state = "over"; // it was not begun
        fail(problem.message);
        input.value = "";
        showState();
      }
    };

    const choose = (files) => {
      if (files.length > 1) fail(words.one);
      else if (files.length === 1) begin(files[0]);
    };

    input.hasChangeListener = true; // Unfold's own would look for the text field of its widget, and fail
    input.addEventListener("change", () => choose(input.files));
    zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.classList.add("ty-drop-over");
    });
    zone.addEventListener("dragleave", () => zone.classList.remove("ty-drop-over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("ty-drop-over");
      choose(event.dataTransfer.files);
    });
    part("pause").addEventListener("click", () => {
      upload.pause();
      showState();
      part("resume").focus();
    });
    part("resume").addEventListener("click", () => {
      fail("");
      upload.send();
      showState();
      part("pause").focus();
    });
    part("cancel").addEventListener("click", async () => {
      if (!confirm(part("cancel").dataset.question)) return;
      fail("");
      try {
        await upload.giveUp();
      } catch (problem) {
        fail(problem.message);
      }
      upload.state = "over";
      input.value = "";
      showState();
    });
    addEventListener("beforeunload", (event) => {
      if (upload?.going) event.preventDefault();
    });
    document.addEventListener("click", async (event) => {
      const button = event.target.closest?.("[data-cancel-import]");
      if (!button || !confirm(button.dataset.question)) return;
      button.disabled = true;
      try {
        await ask("DELETE", fill(addresses.import, { id: button.dataset.cancelImport }));
      } catch (problem) {
        fail(problem.message);
        button.disabled = false;
      }
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    const place = document.querySelector("[data-imports]");
    if (place) startPage(place);
  });
})();
