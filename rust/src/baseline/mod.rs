pub mod ctw;
