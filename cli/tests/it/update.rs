//! `plugin update`, where the source gives something that nobody expects.

use std::fs;

use serde_json::Value;

use crate::{
    file_server::{Answer, FileServer},
    harness::{Done, Home},
    install::{archive, home_with_package, release},
};

struct Updated {
    home: Home,
    package: String,
    server: FileServer,
    url: String,
}

impl Updated {
    /// Release 5, version 1.0.0, is installed from a URL.
    fn new() -> Self {
        let (home, package) = home_with_package();
        let server = FileServer::start();
        release(&home, &package, "1.0.0", "5");
        let url = server.put("/latest", Answer::File(archive(&package)));
        home.run(&["plugin", "install", &url]).ok();
        Self {
            home,
            package,
            server,
            url,
        }
    }

    fn serves(&self, bytes: Vec<u8>) {
        self.server.put("/latest", Answer::File(bytes));
    }

    fn releases(&self, version: &str, serial: &str) {
        release(&self.home, &self.package, version, serial);
        self.serves(archive(&self.package));
    }

    fn update(&self) -> Done {
        self.home.run(&["plugin", "update", "--json"])
    }

    fn installed(&self) -> Value {
        let listed = ["plugin", "list", "--installed", "--json"];
        self.home.run(&listed).ok().json()
    }
}

#[test]
fn a_source_that_gives_another_plugin_is_told() {
    let it = Updated::new();
    let manifest = it.home.work().join("greeter/plugin.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("name: greeter", "name: evil")).unwrap();
    it.releases("9.0.0", "99");
    for command in ["outdated", "update"] {
        let done = it.home.run(&["plugin", command, "--json"]).with_code(6);
        assert_eq!(done.error()["code"], "ORC-5034");
        let row = done.json()[0].clone();
        assert_eq!(row["state"], "failed", "{row}");
        assert_eq!(row["available"], Value::Null, "{row}");
        let error = row["error"].as_str().unwrap();
        assert!(error.contains(&it.url) && error.contains("evil"), "{error}");
    }
    assert_eq!(it.installed().as_array().unwrap().len(), 1);
}

#[test]
fn a_lower_version_with_a_higher_number_is_no_update() {
    let it = Updated::new();
    it.releases("0.9.0", "6");
    let rows = it.update().ok().json();
    assert_eq!(rows[0]["state"], "older");
    assert_eq!(it.installed().as_array().unwrap().len(), 1);
    it.releases("1.1.0", "7");
    assert_eq!(it.update().ok().json()[0]["state"], "updated");
}

#[test]
fn what_is_wrong_is_said_of_the_source() {
    let it = Updated::new();
    it.home.run(&["trust", "remove", "release"]).ok();
    it.releases("1.1.0", "6");
    let row = it.update().with_code(6).json()[0].clone();
    let error = row["error"].as_str().unwrap();
    assert!(error.contains(&it.url), "{error}");
    assert!(!error.contains("unpacking"), "{error}");
}

#[test]
fn what_was_rolled_back_comes_back_from_where_it_came() {
    let it = Updated::new();
    it.releases("1.1.0", "6");
    it.update().ok();
    let rollback = ["plugin", "rollback", "greeter"];
    it.home.run(&rollback).ok();
    let install = ["plugin", "install", &it.url, "--json"];
    assert_eq!(it.home.run(&install).ok().json()["version"], "1.1.0");
    it.server.asked();
    it.home.run(&install).ok();
    assert!(it.server.asked().is_empty());
}

/// A file that is published anew between two pieces of it.
#[test]
fn pieces_of_two_files_are_no_damaged_archive() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let first = archive(&package);
    release(&home, &package, "1.0.0", "5");
    let (half, second) = (first.len() / 2, archive(&package));
    let url = server.put("/latest", Answer::CutThen(first, half, second));
    let done = home.run(&["plugin", "install", &url, "--json"]).ok();
    assert_eq!(done.json()["version"], "1.0.0");
}

#[test]
fn a_download_that_came_to_nothing_leaves_nothing() {
    let (home, _) = home_with_package();
    let server = FileServer::start();
    let url = server.put("/gone", Answer::Status(404));
    home.run(&["plugin", "install", &url]).with_code(4);
    let left = fs::read_dir(home.root().join("downloads")).unwrap();
    assert_eq!(left.count(), 0);
}
