//! Reads an XML document into a small tree. Namespaces are left out: an element is found by its
//! local name.
//!
//! Guarantees: a document with a DTD, more than [`ELEMENTS`] elements or a depth above [`DEPTH`] is
//! refused, and so is an entity other than the five of XML and numbers.

use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

const ELEMENTS: usize = 20_000;
const DEPTH: usize = 64;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Element {
    /// The name without its prefix.
    pub name: String,
    /// The attribute `token`, by which ONVIF names a profile.
    pub token: Option<String>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Returns the text directly inside, without white space around it.
    pub fn text(&self) -> &str {
        self.text.trim()
    }

    /// Returns the first child with a name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Returns the element at a path of names.
    pub fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// Returns the text at a path of names, unless it is empty.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(Element::text).filter(|text| !text.is_empty())
    }

    /// Returns all children with a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn of(start: &BytesStart<'_>) -> Result<Element, String> {
        let mut element = Element { name: local(start), ..Element::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|why| why.to_string())?;
            if attribute.key.as_ref() == "token" {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                element.token = Some(value.map_err(|why| why.to_string())?.into_owned());
            }
        }
        Ok(element)
    }
}

fn local(start: &BytesStart<'_>) -> String {
    start.local_name().as_ref().to_owned()
}

/// Parses a document. Returns its root, or the reason why it is not read.
pub fn parse(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    // The first one is the document itself.
    let mut open = vec![Element::default()];
    let mut elements = 0;
    loop {
        let event = reader.read_event().map_err(|why| why.to_string())?;
        let Some(innermost) = open.last_mut() else { return Err("an end without a start".into()) };
        match event {
            Event::Start(start) => {
                elements += 1;
                if open.len() > DEPTH {
                    return Err(format!("more than {DEPTH} elements within each other"));
                }
                open.push(Element::of(&start)?);
            }
            Event::Empty(start) => {
                elements += 1;
                innermost.children.push(Element::of(&start)?);
            }
            Event::End(_) => {
                let ended = open.pop().unwrap_or_default();
                let Some(parent) = open.last_mut() else {
                    return Err("an end without a start".into());
                };
                parent.children.push(ended);
            }
            Event::Text(text) => innermost.text += &text.xml10_content(),
            Event::CData(text) => innermost.text += &text.xml10_content(),
            Event::GeneralRef(reference) => {
                match reference.resolve_char_ref().map_err(|why| why.to_string())? {
                    Some(character) => innermost.text.push(character),
                    None => {
                        let known = resolve_xml_entity(&reference.into_inner());
                        innermost.text += known.ok_or("an entity, which is not expanded")?;
                    }
                }
            }
            Event::DocType(_) => return Err("a DTD, which is not read".into()),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
        if elements > ELEMENTS {
            return Err(format!("more than {ELEMENTS} elements"));
        }
    }
    let mut document = open.swap_remove(0);
    if !open.is_empty() {
        return Err("it ends within an element".into());
    }
    if document.children.len() != 1 {
        return Err(format!("{} root elements, not one", document.children.len()));
    }
    Ok(document.children.swap_remove(0))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_are_found_by_their_local_names() {
        let root = parse(
            "<?xml version=\"1.0\"?><a:r xmlns:a=\"urn:a\"><!-- no --><b:p token=\"x&amp;y\">\
             <n> A &lt;B&gt; &#67;<![CDATA[<D>]]></n></b:p><p token=\"2\"/></a:r>",
        )
        .expect("a document");
        assert_eq!(root.name, "r");
        assert_eq!(root.text_at(&["p", "n"]), Some("A <B> C<D>"));
        let tokens: Vec<_> = root.all("p").map(|p| p.token.as_deref()).collect();
        assert_eq!(tokens, [Some("x&y"), Some("2")]);
        assert_eq!(root.text_at(&["p", "m"]), None);
    }

    #[test]
    fn hostile_documents_are_refused_quickly() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;\">\
                    <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;\">]><x>&c;</x>";
        let external = "<!DOCTYPE x SYSTEM \"file:///etc/passwd\"><x/>";
        let deep = "<a>".repeat(100_000);
        let wide = format!("<a>{}</a>", "<b/>".repeat(100_000));
        for (text, why) in [
            (bomb, "a DTD"),
            (external, "a DTD"),
            ("<x>&c;</x>", "an entity"),
            (&deep, "more than 64"),
            (&wide, "more than 20000"),
            ("<a><b></a>", "expected"),
            ("<a>", "ends within"),
            ("", "0 root elements"),
            ("<a/><a/>", "2 root elements"),
            ("</a>", ""),
            ("no xml", "0 root elements"),
        ] {
            let started = Instant::now();
            let error = parse(text).expect_err(text.get(..40).unwrap_or(text));
            assert!(error.contains(why), "{why}: {error}");
            assert!(started.elapsed() < Duration::from_secs(5), "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_text_causes_a_panic(text in "(<|>|/|a|&|;|!|\\[|\\]|#|\"|=| |\\PC){0,60}") {
            let _ = parse(&text);
        }
    }
}
