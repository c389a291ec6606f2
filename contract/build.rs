//! Generates the message types from `proto/ringway.proto`, without protoc.

fn main() {
    println!("cargo::rerun-if-changed=proto/ringway.proto");
    let descriptors =
        protox::compile(["proto/ringway.proto"], ["proto"]).expect("the contract's proto file is valid");
    prost_build::Config::new()
        .btree_map(["."])
        .compile_fds(descriptors)
        .expect("code can be generated into OUT_DIR");
}
