// A script of the old kind, since browsers load modules only from a server: it says so where there is none.

if (location.protocol === "file:") {
  document.querySelector("#status").textContent =
    "This page needs a web server: run \"python -m http.server\" in its folder and open http://localhost:8000";
  document.querySelector("#status").classList.add("failed");
}
