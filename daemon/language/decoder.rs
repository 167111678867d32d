//! The language model's decoder graph and its KV cache.
//!
//! Two kinds of graph are run, told apart by what they declare and hold:
//! - with `GroupQueryAttention` (onnxruntime-genai's builder): past and present are one buffer,
//!   allocated once and written in place; the rotary tables are replaced by ours;
//! - without it (transformers.js exports): past and present grow, positions are an input.
//!
//! Prefill runs at batch 1. Errors name the file and the tensor.

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::IoBinding;
use ort::value::{DynValue, Tensor, TensorElementType as Element};

use crate::model::{
    GraphFacts, GraphKind, ModelError, Package, RotaryTables, Runtime, Session, TensorError,
    TextModel,
};

pub struct Decoder {
    session: Session,
    text: TextModel,
    in_place: bool,
    position_ids: bool,
    use_cache_branch: bool,
    num_logits_to_keep: bool,
}

/// The keys and values of `len` tokens, with room for `capacity`.
///
/// Belongs to the decoder that made it. Tokens from `len` on are rubbish; going back is lowering
/// `len`.
pub struct KvCache {
    binding: IoBinding,
    /// Per layer key and value, in the order of [`past_names`]; in place: bound on both sides.
    values: Vec<DynValue>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

fn past_names(layer: usize) -> [(String, String); 2] {
    ["key", "value"]
        .map(|part| (format!("past_key_values.{layer}.{part}"), format!("present.{layer}.{part}")))
}

impl Decoder {
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        threads: usize,
    ) -> Result<Decoder, ModelError> {
        let file = package.graph(GraphKind::Decoder);
        let facts = GraphFacts::read(&file)?;
        let text = package.text.clone();
        let initialisers = rotary_initialisers(&facts, &text)
            .map_err(|why| ModelError(format!("model file {}: {why}", file.display())))?;
        let session = runtime.session(&file, threads, initialisers)?;
        let declares = |name: &str| session.inputs().iter().any(|tensor| tensor.name == name);
        let decoder = Decoder {
            in_place: facts.operators.contains("GroupQueryAttention"),
            position_ids: declares("position_ids"),
            use_cache_branch: declares("use_cache_branch"),
            num_logits_to_keep: declares("num_logits_to_keep"),
            session,
            text,
        };
        decoder.check()?;
        Ok(decoder)
    }

    /// The graph's declarations against `config.json`.
    fn check(&self) -> Result<(), TensorError> {
        let (session, text) = (&self.session, &self.text);
        let wanted = |name: &str, found: i64, wanted: usize| {
            if found < 0 || found == wanted as i64 {
                return Ok(());
            }
            Err(session.error(format!("{name}: {found} declared, config.json says {wanted}")))
        };
        let embeds = session.input("inputs_embeds", Element::Float32)?;
        wanted("inputs_embeds width", *embeds.shape.last().unwrap_or(&-1), text.hidden_size)?;
        session.input("attention_mask", Element::Int64)?;
        let logits = session.output("logits", Element::Float32)?;
        wanted("logits width", *logits.shape.last().unwrap_or(&-1), text.vocab_size)?;
        for layer in 0..text.layers {
            for (past, present) in past_names(layer) {
                let tensor = session.input(&past, Element::Float32)?;
                let [_, heads, _, width] = tensor.shape[..] else {
                    return Err(session.error(format!("{past}: wanted 4 dimensions")));
                };
                wanted(&format!("{past} heads"), heads, text.kv_heads)?;
                wanted(&format!("{past} head_dim"), width, text.head_dim)?;
                session.output(&present, Element::Float32)?;
            }
        }
        let known = [
            "inputs_embeds",
            "attention_mask",
            "position_ids",
            "use_cache_branch",
            "num_logits_to_keep",
        ];
        let layers = text.layers;
        session.only_inputs(|name| {
            known.contains(&name)
                || (0..layers).any(|layer| past_names(layer).iter().any(|(past, _)| past == name))
        })
    }

    /// An empty cache for at most `capacity` tokens.
    pub fn cache(&self, capacity: usize) -> Result<KvCache, TensorError> {
        self.new_cache(capacity).map_err(|e| self.session.error(e))
    }

    fn new_cache(&self, capacity: usize) -> ort::Result<KvCache> {
        let mut binding = self.session.session.create_binding()?;
        let allocator = Allocator::default();
        let length = if self.in_place { capacity } else { 0 };
        let shape = [1, self.text.kv_heads, length, self.text.head_dim];
        let mut values = Vec::new();
        for (past, present) in (0..self.text.layers).flat_map(past_names) {
            let mut value = Tensor::<f32>::new(&allocator, shape)?;
            binding.bind_input(past, &value)?;
            if self.in_place {
                binding.bind_output(present, &mut value)?;
            } else {
                binding.bind_output_to_device(present, &host_memory()?)?;
            }
            values.push(value.into_dyn());
        }
        Ok(KvCache { binding, values, len: 0, capacity })
    }

    /// Empties the cache, keeping its memory where it is written in place.
    pub fn clear(&self, cache: &mut KvCache) -> Result<(), TensorError> {
        if self.in_place {
            cache.len = 0;
        } else {
            *cache = self.cache(cache.capacity)?;
        }
        Ok(())
    }

    /// Appends tokens, `embeddings` `[n, D]`, and returns the logits `[vocabulary]` after the last.
    pub fn forward(
        &mut self,
        cache: &mut KvCache,
        embeddings: &[f32],
    ) -> Result<Vec<f32>, TensorError> {
        let new = embeddings.len() / self.text.hidden_size;
        if new == 0 || cache.len + new > cache.capacity {
            return Err(self.session.error(format!(
                "{new} tokens on {} of a cache for {}",
                cache.len, cache.capacity
            )));
        }
        let logits = self.run(cache, embeddings, new);
        let logits = logits.map_err(|e| self.session.error(e))?;
        cache.len += new;
        Ok(logits)
    }

    fn run(
        &mut self,
        cache: &mut KvCache,
        embeddings: &[f32],
        new: usize,
    ) -> ort::Result<Vec<f32>> {
        let total = cache.len + new;
        let binding = &mut cache.binding;
        let shape = [1, new, self.text.hidden_size];
        binding.bind_input("inputs_embeds", &Tensor::from_array((shape, embeddings.to_vec()))?)?;
        let mask = Tensor::from_array(([1, total], vec![1i64; total]))?;
        binding.bind_input("attention_mask", &mask)?;
        if self.position_ids {
            let positions: Vec<i64> = (cache.len as i64..total as i64).collect();
            binding.bind_input("position_ids", &Tensor::from_array(([1, new], positions))?)?;
        }
        if self.use_cache_branch {
            // One element; the branch without a past only spares the empty past.
            let with_past = Tensor::from_array(([1], vec![cache.len > 0]))?;
            binding.bind_input("use_cache_branch", &with_past)?;
        }
        if self.num_logits_to_keep {
            let one = Tensor::from_array(((), vec![1i64]))?;
            binding.bind_input("num_logits_to_keep", &one)?;
        }
        // Bound anew each time: what is bound keeps the shape of its last run.
        binding.bind_output_to_device("logits", &host_memory()?)?;
        let mut grown = Vec::new();
        let logits = {
            let mut outputs = self.session.session.run_binding(binding)?;
            if !self.in_place {
                for (_, present) in (0..self.text.layers).flat_map(past_names) {
                    grown.extend(outputs.remove(&present));
                }
            }
            let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>()?;
            let vocabulary = shape.last().copied().unwrap_or(0) as usize;
            logits[logits.len() - vocabulary..].to_vec()
        };
        if !self.in_place {
            let names = (0..self.text.layers).flat_map(past_names);
            for ((past, present), value) in names.zip(&grown) {
                binding.bind_input(past, value)?;
                binding.bind_output_to_device(present, &host_memory()?)?;
            }
            cache.values = grown;
        }
        Ok(logits)
    }
}

fn host_memory() -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
}

/// Our rotary tables in place of the graph's, at the shape that the graph holds.
fn rotary_initialisers(
    facts: &GraphFacts,
    text: &TextModel,
) -> Result<Vec<(&'static str, DynValue)>, String> {
    let (Some(cos), Some(sin)) =
        (facts.initialisers.get("cos_cache"), facts.initialisers.get("sin_cache"))
    else {
        if facts.operators.contains("GroupQueryAttention") {
            return Err("GroupQueryAttention without initialisers cos_cache and sin_cache".into());
        }
        // The exporter has computed the rotation into the graph.
        return Ok(Vec::new());
    };
    let half = text.head_dim as i64 / 2;
    match (&cos[..], &sin[..]) {
        ([positions, width], other) if *other == cos[..] && *width == half && *positions > 0 => {
            let tables = RotaryTables::new(text.rope, *positions as usize, text.head_dim);
            let shape = [tables.positions, tables.half];
            let tensor = |values: Vec<f32>| {
                Ok::<_, String>(
                    Tensor::from_array((shape, values)).map_err(|e| e.to_string())?.into_dyn(),
                )
            };
            Ok(vec![("cos_cache", tensor(tables.cos)?), ("sin_cache", tensor(tables.sin)?)])
        }
        _ => Err(format!("cos_cache {cos:?}, sin_cache {sin:?}: wanted [positions, {half}]")),
    }
}
