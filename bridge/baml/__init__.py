"""The wall around BAML: no other module of the bridge imports `baml_py`.

functions     find, check and run the functions of the generated client
client        one call: its partial results, its result, what the provider reported
arguments     a function's arguments, bound by name and checked
provider      providers' events and errors: model, usage, finish reason, failure
delimiters    BAML's prompt delimiters, made harmless in users' text
"""
