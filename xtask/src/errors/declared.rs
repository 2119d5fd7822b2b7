//! What the sources say about codes: attributes, `Rule` arms, plain literals.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::{
    Definition, Use,
    wording::{self, Constants},
};

/// Definitions and uses, in the order of the sources.
#[derive(Default)]
pub(super) struct Found {
    pub(super) definitions: Vec<Definition>,
    pub(super) uses: Vec<Use>,
}

impl Found {
    /// Reads one file.
    pub(super) fn read(&mut self, file: &str, text: &str) -> Result<(), String> {
        let tree = syn::parse_file(text).map_err(|error| format!("{file}: {error}"))?;
        let mut reader = Reader {
            file,
            constants: wording::constants(&tree),
            rules: BTreeMap::new(),
            found: self,
        };
        reader.visit_file(&tree);
        Ok(())
    }
}

struct Reader<'a> {
    file: &'a str,
    constants: Constants,
    /// The documentation of the variants of `Rule`, by name.
    rules: BTreeMap<String, Vec<String>>,
    found: &'a mut Found,
}

impl Reader<'_> {
    /// A struct or variant whose attributes name a code.
    fn define(&mut self, attributes: &[syn::Attribute]) {
        let Some(diagnostic) = arguments(attributes, "diagnostic") else {
            return;
        };
        let Some(code) = argument(&diagnostic, "code").and_then(|it| code_in(&it.to_string()))
        else {
            return;
        };
        let words = |tokens| wording::markdown(tokens, &self.constants);
        let mut about = documentation(attributes);
        let mut help = argument(&diagnostic, "help").map_or_else(String::new, words);
        if help.is_empty() || wording::is_only_a_placeholder(&help) {
            // The advice differs each time; the documentation says which.
            help = about.split_off(about.len().min(1)).join(" ");
        }
        self.found.definitions.push(Definition {
            code,
            file: self.file.to_owned(),
            message: arguments(attributes, "error")
                .map(words)
                .filter(|message| !wording::is_only_a_placeholder(message))
                .unwrap_or_default(),
            about,
            help,
        });
    }

    fn mention(&mut self, text: &str) {
        if let Some(code) = code_in(text) {
            let file = self.file.to_owned();
            self.found.uses.push(Use { code, file });
        }
    }

    fn mention_in(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.mention_in(group.stream()),
                TokenTree::Literal(literal) => self.mention(&literal.to_string()),
                _ => (),
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        let for_tests = |tokens: TokenStream| tokens.to_string() == "test";
        if !arguments(attributes, "cfg").is_some_and(for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.define(&item.attrs);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        for variant in &item.variants {
            self.define(&variant.attrs);
            if item.ident == "Rule" {
                let about = documentation(&variant.attrs);
                self.rules.insert(variant.ident.to_string(), about);
            }
        }
    }

    /// `Self::Syntax => "ORC-1005"`
    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let of_rule = match (&arm.pat, literal(&arm.body)) {
            (syn::Pat::Path(path), Some(text)) => {
                let name = path.path.segments.last().map(|it| it.ident.to_string());
                let about = name.and_then(|name| self.rules.get(&name).cloned());
                code_in(&text).zip(about)
            }
            _ => None,
        };
        let Some((code, mut about)) = of_rule else {
            return visit::visit_arm(self, arm);
        };
        let help = about.split_off(about.len().min(1)).join(" ");
        self.found.definitions.push(Definition {
            code,
            file: self.file.to_owned(),
            message: String::new(),
            about,
            help,
        });
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        self.mention(&literal.value());
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.mention_in(call.tokens.clone());
    }

    // Documentation and derives are read where they define something.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

/// The text of an expression that is nothing but a text.
fn literal(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

/// The number in a text that holds `ORC-nnnn`.
fn code_in(text: &str) -> Option<u16> {
    let (_, number) = text.split_once("ORC-")?;
    let number = number.get(..4)?;
    number.parse().ok()
}

/// What stands between the parentheses of `#[name(…)]`.
fn arguments(attributes: &[syn::Attribute], name: &str) -> Option<TokenStream> {
    attributes
        .iter()
        .find_map(|attribute| match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident(name) => Some(list.tokens.clone()),
            _ => None,
        })
}

/// What stands between the parentheses of `name(…)` among arguments.
fn argument(tokens: &TokenStream, name: &str) -> Option<TokenStream> {
    let mut tokens = tokens.clone().into_iter();
    while let Some(token) = tokens.next() {
        if matches!(&token, TokenTree::Ident(ident) if ident == name)
            && let Some(TokenTree::Group(group)) = tokens.next()
        {
            return Some(group.stream());
        }
    }
    None
}

/// The paragraphs of the documentation, without the targets of its links.
fn documentation(attributes: &[syn::Attribute]) -> Vec<String> {
    let lines = attributes.iter().filter_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        pair.path.is_ident("doc").then(|| literal(&pair.value))?
    });
    let text: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    text.split(String::is_empty)
        .filter(|paragraph| !paragraph.is_empty())
        .map(|paragraph| wording::without_links(&paragraph.join(" ")))
        .collect()
}
