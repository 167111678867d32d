//! Replaces the rotary tables that a decoder graph takes from initialisers.

use ort::value::DynValue;

use crate::model::{Element, Float, GraphFacts, RotaryTables, Scaling, TextModel};

/// Returns lookout's rotary tables, which replace the graph's, for sequences of at most
/// `positions` tokens.
pub fn rotary_initialisers(
    facts: &GraphFacts,
    text: &TextModel,
    positions: usize,
) -> Result<Vec<(String, DynValue)>, String> {
    if facts.rotary.is_empty() {
        if facts.operators.contains("GroupQueryAttention") {
            return Err("GroupQueryAttention that is given no rotary tables".into());
        }
        // The export has computed the rotation into the graph, for the trained length.
        return match text.rope.scaling {
            Scaling::Dynamic { trained, .. } if positions > trained => Err(format!(
                "rotation is computed into the graph, and config.json's dynamic RoPE scaling \
                 changes it past {trained} tokens; {positions} are planned"
            )),
            _ => Ok(Vec::new()),
        };
    }
    let tables = RotaryTables::new(text.rope, positions, text.head_dim);
    let mut replaced = Vec::new();
    for (cos, sin) in &facts.rotary {
        for (name, values) in [(cos, &tables.cos), (sin, &tables.sin)] {
            let Some(own) = facts.initialisers.get(name) else {
                return Err(format!("rotary table {name:?} is not an initialiser"));
            };
            let float = match own.element {
                Element::Float32 => Float::F32,
                Element::Float16 => Float::F16,
                Element::Other => return Err(format!("rotary table {name:?}: wanted floats")),
            };
            if !matches!(own.shape[..], [_, width] if width == tables.half as i64) {
                return Err(format!(
                    "rotary table {name:?} {:?}: wanted [positions, {}]",
                    own.shape, tables.half
                ));
            }
            let tensor = float.tensor(&[tables.positions, tables.half], values);
            replaced.push((name.clone(), tensor.map_err(|e| e.to_string())?));
        }
    }
    Ok(replaced)
}
