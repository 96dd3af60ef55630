//! Breadth-first search through all states of a model: the first failure that it meets is one with
//! the shortest interleaving. States are known by 64 bits of hash, so at 50 million of them two
//! are taken for one with a probability of 1 in 10,000.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

/// What the search needs to know of a model.
pub trait Model {
    type State;
    fn first(&self) -> Self::State;
    /// Calls `each` with the name of every step that can be taken and what it leads to.
    fn steps(&self, state: &Self::State, each: &mut dyn FnMut(String, Result<Self::State, String>));
    /// What is wrong with a state in which no step can be taken.
    fn at_end(&self, state: &Self::State) -> Result<(), String>;
    fn pack(state: &Self::State) -> Vec<u8>;
    fn unpack(bytes: &[u8]) -> Self::State;
}

#[derive(Debug)]
pub struct Found {
    pub states: usize,
    pub ends: usize,
    pub depth: usize,
    pub complete: bool,
    pub failure: Option<(String, Vec<String>)>,
}

pub fn search<M: Model>(model: &M, limit: usize) -> Found {
    let mut known: std::collections::HashSet<u64, BuildHasherDefault<Same>> = Default::default();
    let mut prints: Vec<u64> = Vec::new();
    let mut parents: Vec<u32> = Vec::new();
    let mut queue: VecDeque<Box<[u8]>> = VecDeque::new();
    let bytes = M::pack(&model.first());
    known.insert(print(&bytes));
    prints.push(print(&bytes));
    parents.push(0);
    queue.push_back(bytes.into_boxed_slice());
    let (mut at, mut ends, mut depth, mut level_end) = (0usize, 0, 0, 1);
    let mut failure: Option<(String, String)> = None;
    while let Some(bytes) = queue.pop_front() {
        if at == level_end {
            depth += 1;
            level_end = prints.len();
        }
        let state = M::unpack(&bytes);
        let mut any = false;
        model.steps(&state, &mut |name, next| {
            any = true;
            match next {
                Ok(next) => {
                    let bytes = M::pack(&next);
                    let print = print(&bytes);
                    if known.insert(print) {
                        prints.push(print);
                        parents.push(at as u32);
                        queue.push_back(bytes.into_boxed_slice());
                    }
                }
                Err(why) => {
                    failure.get_or_insert((why, name));
                }
            }
        });
        if !any {
            ends += 1;
            if let Err(why) = model.at_end(&state) {
                failure.get_or_insert((why, String::from("(no step is left)")));
            }
        }
        if let Some((why, last)) = failure {
            let mut path = way(model, &prints, &parents, at);
            path.push(last);
            return Found {
                states: prints.len(),
                ends,
                depth,
                complete: false,
                failure: Some((why, path)),
            };
        }
        at += 1;
        if prints.len() > limit {
            return Found { states: prints.len(), ends, depth, complete: false, failure: None };
        }
    }
    Found { states: prints.len(), ends, depth, complete: true, failure: None }
}

/// The steps from the first state to number `at`, found again by their prints.
fn way<M: Model>(model: &M, prints: &[u64], parents: &[u32], at: usize) -> Vec<String> {
    let mut chain = vec![at];
    while *chain.last().expect("a chain begins with its end") != 0 {
        chain.push(parents[*chain.last().expect("a chain begins with its end")] as usize);
    }
    chain.reverse();
    let mut state = model.first();
    let mut path = Vec::new();
    for number in &chain[1..] {
        let mut next_state = None;
        model.steps(&state, &mut |name, next| {
            if let Ok(next) = next
                && next_state.is_none()
                && print(&M::pack(&next)) == prints[*number]
            {
                path.push(name);
                next_state = Some(next);
            }
        });
        state = next_state.expect("a state's parent leads to it");
    }
    path
}

fn print(bytes: &[u8]) -> u64 {
    let (mut a, mut b) = (0x9e37_79b9_7f4a_7c15u64, bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let m = u128::from(a ^ u64::from_le_bytes(word)) * 0xd6e8_feb8_6659_fd93_u128;
        a = (m as u64) ^ ((m >> 64) as u64) ^ b;
        b = b.rotate_left(23).wrapping_add(a).wrapping_mul(0xe703_7ed1_a0b4_28db);
    }
    let m = u128::from(a ^ 0x8ebc_6af0_9c88_c6e3) * u128::from(b | 1);
    (m as u64) ^ ((m >> 64) as u64)
}

/// The prints are hashes already.
#[derive(Default)]
struct Same(u64);
impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only prints are hashed")
    }
    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
