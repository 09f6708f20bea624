"""People and their pictures: folders of photographs, face alignment, picture files, and procedural (drawn) people.

Imports: the leaves only. Whatever needs a network of lib.models or a recogniser is passed in as a function.
"""
