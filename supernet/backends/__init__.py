"""The engines a captured model can run on, one file each, behind one small protocol.

``base`` holds the protocol and ``load_plan``; ``eager`` runs the program on torch itself, ``aoti``
compiles it with AOTInductor, ``onnxruntime`` and ``openvino`` run it without torch. Each is
imported only when it is asked for.
"""
