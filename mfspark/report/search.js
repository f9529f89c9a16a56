(function () {
  "use strict";
  var section = document.getElementById("search");
  var index = JSON.parse(document.getElementById("search-index").textContent);
  var box = section.querySelector("input");
  var found = section.querySelector("[data-found]");
  var details = section.querySelector("[data-item]");
  var most = 8;
  var plain = function (text) {
    return text.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  };
  var names = index.items.map(function (item) { return plain(item[0]); });
  var add = function (parent, kind, text, number) {
    var element = document.createElement(kind);
    if (text !== undefined) element.textContent = text;
    if (number) element.className = "n";
    parent.appendChild(element);
    return element;
  };
  var signed = function (value, digits) {
    return (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);
  };
  var button = function (parent, number) {
    var element = add(parent, "button", index.items[number][0]);
    element.type = "button";
    element.addEventListener("click", function () { show(number); });
  };
  var table = function (parent, title) {
    add(parent, "h4", title);
    return add(add(parent, "table"), "tbody");
  };
  var show = function (number) {
    var item = index.items[number];
    details.replaceChildren();
    add(details, "h3", item[0]);
    add(details, "p", item[1].toLocaleString("en") + " ratings, bias " + signed(item[2], 2)).className = "soft";
    var lists = add(details, "div");
    lists.className = "lists";
    var near = table(add(lists, "div"), "similar items, by similarity");
    item[4].forEach(function (pair) {
      var row = add(near, "tr");
      button(add(row, "td"), pair[0]);
      add(row, "td", pair[1].toFixed(2), true);
    });
    if (!item[4].length) add(add(near, "tr"), "td", "no reliable neighbour");
    if (index.factors.length) {
      var places = table(add(lists, "div"), "place on the factors, in standard deviations of items");
      index.factors.forEach(function (name, at) {
        var row = add(places, "tr");
        add(row, "td", name);
        add(row, "td", signed(item[3][at], 1), true);
      });
    }
  };
  var search = function () {
    var words = plain(box.value).split(/\s+/).filter(Boolean);
    found.replaceChildren();
    if (!words.length) return;
    var hits = 0;
    for (var number = 0; number < names.length && hits < most; number += 1) {
      if (words.every(function (word) { return names[number].includes(word); })) {
        button(add(found, "li"), number);
        hits += 1;
      }
    }
    if (!hits) add(found, "li", "no item of that name has enough ratings").className = "soft";
  };
  box.addEventListener("input", search);
  section.hidden = false;
  document.querySelector("nav a[href='#search']").hidden = false;
})();
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (each) { each.open = true; });
});
