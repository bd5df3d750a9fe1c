// A menu of the book's versions above the contents: where the site has more than one. The list stands beside the newest;
// a copy that is read from a folder, or from another server, has no menu.
(() => {
  const { list, version, page } = document.currentScript.dataset;
  if (location.origin !== new URL(list).origin) return;

  const menu = (versions) => {
    const label = document.createElement("label");
    label.className = "book-versions";
    const select = document.createElement("select");
    versions.forEach((one) => {
      select.add(new Option(one.version, one.address, false, one.version === version));
    });
    select.addEventListener("change", () => location.assign(select.value + page));
    label.append("Version ", select);
    return label;
  };

  fetch(list)
    .then((answer) => (answer.ok ? answer.json() : []))
    .then((versions) => {
      if (versions.length > 1) document.querySelector(".bd-sidebar-primary .sidebar-primary-item").append(menu(versions));
    })
    .catch(() => {}); // without a network the page is read as it is
})();
