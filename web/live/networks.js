// The book's trained networks for a page: computed in a worker, so that the page never waits; loaded when they are
// first asked for, those of one kind kept; and pictures to show them.
deepvitLive.networks = (() => {
  const { script } = deepvitLive;
  const effects = new Map(), arrived = new Map(), loaded = new Map();
  let worker, keptKind, queue = Promise.resolve();

  // The files of a network and of pictures call these.
  deepvitLive.takeSpecimen = ({ name, effects: costs, weights }) => {
    effects.set(name, costs);
    arrived.set(name, weights);
  };
  const samples = []; // the first is known from the start, with more pixels for the reader than the networks see
  const start = {};
  deepvitLive.takeStart = (given) => {
    Object.assign(start, given);
    const file = given.shown[devicePixelRatio > 1 ? 1 : 0]; // for a sharp screen, twice as many pixels
    samples.push({ key: given.title, title: given.title, shown: deepvitLive.address(`live/${file}`) });
  };
  deepvitLive.takeSamples = (given) => given.forEach(({ title, png }, i) => {
    samples[i] ??= { key: title, title, shown: `data:image/png;base64,${png}` };
    samples[i].source = png;
  });

  async function startWorker() {
    await Promise.all(["network.js", "interventions.js", "photo.js", "live/worker.js"].map(script));
    const parts = { visionNetwork, interventions, photoPixels, readPhoto, liveWorker };
    const text = Object.entries(parts).map(([name, part]) => `const ${name} = ${part};`).join("\n");
    return new Worker(URL.createObjectURL(new Blob([`${text}\nliveWorker();`], { type: "text/javascript" })));
  }

  // The worker's answer to a message; one is answered after the other.
  function ask(message) {
    const answered = queue.then(async () => {
      worker ??= await startWorker();
      return new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.answer));
        worker.postMessage(message);
      });
    });
    queue = answered.catch(() => {});
    return answered;
  }

  async function fetchSpecimen(name) {
    const file = `live/${name}.js`;
    await script(file);
    deepvitLive.forget(file); // its text is not kept: who wants it again loads it again
    const weights = arrived.get(name);
    arrived.delete(name);
    return ask({ step: "load", name, weights });
  }

  // Makes a network ready, by its name REMEDY_KIND; its { depth, heads, tokens, side }.
  function load(name) {
    const kind = name.split("_")[1];
    if (kind !== keptKind) {
      keptKind = kind;
      loaded.clear();
      ask({ step: "forget" });
    }
    if (!loaded.has(name)) {
      loaded.set(name, fetchSpecimen(name).catch((error) => {
        loaded.delete(name); // so that it can be tried again
        throw error;
      }));
    }
    return loaded.get(name);
  }

  return { ask, load, isLoaded: (name) => loaded.has(name), effects, samples, start };
})();
