# Puts files into a library as read-only bytes, so that the program needs no data files at run time.
# The assembler copies them (.incbin), which is instant at any size.
#
# foretoken_embed_file(TARGET SYMBOL FILE)
# The code then declares  extern "C" const char SYMBOL_begin[], SYMBOL_end[];
# The caller enables the ASM language: enable_language(ASM).
function(foretoken_embed_file target symbol file)
  get_filename_component(path ${file} ABSOLUTE)
  set(assembly ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.s)
  # The empty .note section says that the stack need not be executable.
  file(CONFIGURE OUTPUT ${assembly} @ONLY CONTENT [[
    .section .rodata
    .global @symbol@_begin
    .global @symbol@_end
@symbol@_begin:
    .incbin "@path@"
@symbol@_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
]])
  set_source_files_properties(${assembly} PROPERTIES OBJECT_DEPENDS ${path})
  target_sources(${target} PRIVATE ${assembly})
endfunction()
