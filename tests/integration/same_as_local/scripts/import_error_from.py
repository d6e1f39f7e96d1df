from json import nonesuch
