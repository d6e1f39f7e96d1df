exec(compile("def g():\n    raise ValueError(3)\ng()", "<made>", "exec"))
