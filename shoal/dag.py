"""Lazy call graphs, under Ray's module name: `node = f.bind(g.bind(1)); ref = node.execute()`.

`bind` runs nothing: it makes a node that remembers a call. `execute` walks the graph from its end, submits each node
once, and passes references between them, as `.remote()` written by hand would. Every execution makes the actors of its
class nodes anew; a handle's own methods can be bound as well, and then use that actor.

Arguments may hold nodes at any depth, also inside objects that can be pickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import cloudpickle

from shoal.runtime.client.actors import ActorClass, ActorHandle, ActorMethod
from shoal.runtime.client.functions import RemoteFunction
from shoal.runtime.client.refs import ObjectRef

_LEAVES = frozenset((bool, bytes, complex, float, int, str, type(None)))


class DAGNode:
    """One call of a graph, not yet made."""

    def __init__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        self._args, self._kwargs = args, kwargs or {}

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph that ends here with these inputs; return what the last call returns at once: a ref, a list
        of refs for `MultiOutputNode` and several results, a handle for a class.

        Raises:
            ValueError: the graph has two `InputNode`s, or one that was made outside `with`. TypeError: an argument
            that may hold nodes cannot be pickled.
        """
        return _Execution(args, kwargs).run(self)

    def experimental_compile(self, *args: Any, **options: Any) -> Any:
        """Refuse: graphs are not compiled.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("experimental_compile: compiled graphs are not supported; call `.execute()`")

    def get_args(self) -> tuple[Any, ...]:
        """Return the positional arguments, with nodes."""
        return self._args

    def get_kwargs(self) -> dict[str, Any]:
        """Return the named arguments, with nodes."""
        return dict(self._kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "bind":
            raise AttributeError(f"`.bind()` cannot be used again on a `{type(self).__name__}`")
        if name == "remote":
            raise AttributeError(f"`.remote()` cannot be used on a `{type(self).__name__}`; use `.execute()`")
        raise AttributeError(f"`{type(self).__name__}` has no attribute `{name}`")

    def _before(self) -> tuple[DAGNode, ...]:
        """Return the nodes that must run first though no argument names them."""
        return ()

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError


class FunctionNode(DAGNode):
    """A call of a remote function."""

    def __init__(self, function: RemoteFunction[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._function = function

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._function.remote(*args, **kwargs)


class ClassNode(DAGNode):
    """The creation of an actor; its attributes are the class's methods, to be bound."""

    def __init__(self, actor_class: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._actor_class = actor_class
        self._last_call: ClassMethodNode | None = None
        if any(isinstance(node, InputNode) for node in _Scanned((args, kwargs)).nodes):
            raise ValueError(
                "bind: the input of a graph cannot be an argument of a class; pass a part, or use a method"
            )

    def __getattr__(self, name: str) -> Any:
        actor_class = self.__dict__.get("_actor_class")
        if actor_class is not None and name in actor_class._meta:
            return _Unbound(self, name, {})
        return super().__getattr__(name)

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._actor_class.remote(*args, **kwargs)


class _Unbound:
    """A method of a class node, before its arguments are bound."""

    def __init__(self, parent: ClassNode, name: str, options: dict[str, Any]) -> None:
        self._parent, self._name, self._options = parent, name, options

    def options(self, **options: Any) -> _Unbound:
        """Return the method under other options."""
        return _Unbound(self._parent, self._name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """Return a node for a call, which comes after the calls bound before on this class node."""
        node = ClassMethodNode(self._parent, self._name, self._options, args, kwargs)
        node._previous = self._parent._last_call
        self._parent._last_call = node
        return node

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: there is no actor yet."""
        raise AttributeError("`.remote()` cannot be used on a method of a graph's class; use `.bind()`")


class ClassMethodNode(DAGNode):
    """A call of an actor's method: of a class node's actor, or of a handle's."""

    def __init__(
        self,
        parent: ClassNode | ActorMethod,
        name: str,
        options: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        super().__init__(args, kwargs)
        self._parent, self._name, self._options = parent, name, options
        self._previous: ClassMethodNode | None = None

    def get_method_name(self) -> str:
        """Return the method's name."""
        return self._name

    def _before(self) -> tuple[DAGNode, ...]:
        # The call bound before comes first: an actor's calls run in the order in which they were written.
        parents = (self._parent,) if isinstance(self._parent, ClassNode) else ()
        return parents if self._previous is None else (*parents, self._previous)

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(self._parent, ActorMethod):
            return self._parent.remote(*args, **kwargs)
        method = getattr(execution.results[self._parent], self._name)
        return (method.options(**self._options) if self._options else method).remote(*args, **kwargs)


class _OutputNode(DAGNode):
    """One of several results of a bound call."""

    def __init__(self, call: ClassMethodNode, place: int) -> None:
        super().__init__((call,))
        self._place = place

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[0][self._place]


class InputNode(DAGNode):
    """What `execute` is called with: `with InputNode() as x: node = f.bind(x, x[0], x.key)`.

    It stands for the one argument of `execute`; with several, only `x[place]`, `x.name` and `x["name"]` are of use.
    """

    def __init__(self, *, input_type: Any = None) -> None:
        super().__init__()
        self._is_entered = False

    def __enter__(self) -> InputNode:
        self._is_entered = True
        return self

    def __exit__(self, *_: object) -> None: ...

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        if not isinstance(key, (int, str)):
            raise TypeError(f"InputNode: expected a place or a name in brackets, got `{type(key).__name__}`")
        return InputAttributeNode(self, key, is_attribute=False)

    def __getattr__(self, name: str) -> Any:
        if name in ("bind", "remote") or (name.startswith("__") and name.endswith("__")) or name == "_is_entered":
            return super().__getattr__(name)
        return InputAttributeNode(self, name, is_attribute=True)

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._is_entered:
            raise ValueError("InputNode: use it in `with InputNode() as x:`, then bind `x`")
        return execution.given(self)


class InputAttributeNode(DAGNode):
    """A part of the input."""

    def __init__(self, source: InputNode, key: int | str, *, is_attribute: bool) -> None:
        super().__init__((source,))
        self._key, self._is_attribute = key, is_attribute

    @property
    def key(self) -> int | str:
        """Which part."""
        return self._key

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source = args[0]
        if self._is_attribute and not isinstance(source, DAGInputData):
            return getattr(source, str(self._key))
        return source[self._key]


class DAGInputData:
    """Several arguments of one `execute`: by place or by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args, self._kwargs = args, kwargs

    def __getitem__(self, key: int | str) -> Any:
        return self._args[key] if isinstance(key, int) else self._kwargs[key]


class MultiOutputNode(DAGNode):
    """Several ends of one graph: `execute` returns the list of their results.

    Raises:
        ValueError: neither a list nor a tuple was given.
    """

    def __init__(self, args: list[Any] | tuple[Any, ...]) -> None:
        if not isinstance(args, (list, tuple)):
            raise ValueError(f"MultiOutputNode: expected a list of nodes, got `{type(args).__name__}`")
        super().__init__(tuple(args))

    def _run(self, execution: _Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return list(args)


def bound_method(method: ActorMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the node of a call of a live actor's method; a tuple of nodes, one a result, if it has several."""
    call = ClassMethodNode(method.kept(), method._name, {}, args, kwargs)
    count = method.count_returns()
    return tuple(_OutputNode(call, place) for place in range(count)) if count > 1 else call


class _Execution:
    """One walk through a graph: what each node gave."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self._given_kwargs = args, kwargs
        self._input: InputNode | None = None
        self.results: dict[DAGNode, Any] = {}

    def given(self, node: InputNode) -> Any:
        """Return the input, to the graph's one input node."""
        if self._input not in (None, node):
            raise ValueError("execute: a graph has one InputNode, this one has two")
        self._input = node
        if len(self._args) == 1 and not self._given_kwargs:
            return self._args[0]
        return DAGInputData(*self._args, **self._given_kwargs)

    def run(self, end: DAGNode) -> Any:
        """Run every node that `end` needs, each once, and `end`. Without recursion: graphs may be long."""
        results = self.results
        ways: list[tuple[DAGNode, _Scanned, Iterator[DAGNode]]] = [self._way(end)]
        while ways:
            node, scanned, needed = ways[-1]
            missing = next((one for one in needed if one not in results), None)
            if missing is not None:
                ways.append(self._way(missing))
                continue
            ways.pop()
            args, kwargs = scanned.filled(results.__getitem__)
            results[node] = node._run(self, args, kwargs)
        return results[end]

    @staticmethod
    def _way(node: DAGNode) -> tuple[DAGNode, _Scanned, Iterator[DAGNode]]:
        scanned = _Scanned((node._args, node._kwargs))
        return node, scanned, iter((*node._before(), *scanned.nodes))


class _Scanned:
    """The arguments of a node and the nodes that they hold. Those that hold none are passed on as they are."""

    def __init__(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        self._args, self._kwargs = call
        self.nodes: list[DAGNode] = []
        self._inside: dict[int, tuple[bytes, list[Any], list[pickle.PickleBuffer]]] = {}
        """Pickles of arguments that hold nodes, by the argument's id."""
        for argument in (*self._args, *self._kwargs.values()):
            if isinstance(argument, DAGNode):
                self.nodes.append(argument)
            elif type(argument) not in _LEAVES and not isinstance(argument, (ObjectRef, ActorHandle)):
                self._look_into(argument)

    def _look_into(self, argument: Any) -> None:
        file, buffers = BytesIO(), list[pickle.PickleBuffer]()
        pickler = _Pickler(file, protocol=5, buffer_callback=buffers.append)
        pickler.dump(argument)
        found = [one for one in pickler.kept if isinstance(one, DAGNode)]
        if found:
            self.nodes += found
            self._inside[id(argument)] = (file.getvalue(), pickler.kept, buffers)

    def filled(self, result_of: Callable[[DAGNode], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with each node's result in its place."""

        def fill(argument: Any) -> Any:
            if isinstance(argument, DAGNode):
                return result_of(argument)
            inside = self._inside.get(id(argument))
            if inside is None:
                return argument
            data, kept, buffers = inside
            values = [result_of(one) if isinstance(one, DAGNode) else one for one in kept]
            return _Unpickler(BytesIO(data), values, buffers).load()

        return tuple(map(fill, self._args)), {name: fill(one) for name, one in self._kwargs.items()}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Keeps nodes, references and handles out of the pickle."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept: list[Any] = []

    def persistent_id(self, thing: Any) -> int | None:
        """Return the place of what is kept; None for all else."""
        if not isinstance(thing, (DAGNode, ObjectRef, ActorHandle)):
            return None
        self.kept.append(thing)
        return len(self.kept) - 1


class _Unpickler(pickle.Unpickler):
    """Puts values where things were kept."""

    def __init__(self, file: BytesIO, values: list[Any], buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, buffers=buffers)
        self._values = values

    def persistent_load(self, place: int) -> Any:
        """Return the value for a place."""
        return self._values[place]


__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]
