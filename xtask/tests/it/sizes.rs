//! Files and functions that fit a reader's head.

use syn::{spanned::Spanned, visit::Visit};

use crate::{read, root, sources};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const CONTRACT_LINES_MAX: usize = 1_500;

#[test]
fn files_and_functions_stay_small() {
    let mut too_large = Vec::new();
    for path in sources() {
        let text = read(&path);
        let shown = path
            .strip_prefix(root())
            .unwrap_or(&path)
            .display()
            .to_string();
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            too_large.push(format!("{shown}: {lines} lines (at most {FILE_LINES_MAX})"));
        }
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut functions = Functions {
            shown,
            found: &mut too_large,
        };
        functions.visit_file(&file);
    }
    assert!(
        too_large.is_empty(),
        "larger than agreed:\n{}",
        too_large.join("\n")
    );
}

/// A crate of shared words is where things end up that nobody placed. Its
/// documentation is what it is for, so only code counts.
#[test]
fn the_contract_stays_small() {
    let lines: usize = sources()
        .iter()
        .filter(|path| path.starts_with(root().join("contract/src")))
        .map(|path| {
            let text = read(path);
            let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
            let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
            shipped.lines().filter(is_code).count()
        })
        .sum();
    assert!(
        lines > 0 && lines <= CONTRACT_LINES_MAX,
        "contract/ has {lines} lines"
    );
}

struct Functions<'a> {
    shown: String,
    found: &'a mut Vec<String>,
}

impl Functions<'_> {
    fn check(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.span();
        let lines = span.end().line + 1 - span.start().line;
        if lines > FUNCTION_LINES_MAX {
            let line = span.start().line;
            self.found.push(format!(
                "{}:{line}: `{name}` has {lines} lines (at most {FUNCTION_LINES_MAX})",
                self.shown
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check(&function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }
}
