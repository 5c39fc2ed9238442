from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IdentifyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StandingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Identity(_message.Message):
    __slots__ = ("cluster_uid", "cluster_name", "epoch", "version", "is_settling", "is_read_only", "frames_addresses", "session")
    CLUSTER_UID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IS_SETTLING_FIELD_NUMBER: _ClassVar[int]
    IS_READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    FRAMES_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    cluster_uid: str
    cluster_name: str
    epoch: int
    version: str
    is_settling: bool
    is_read_only: bool
    frames_addresses: _containers.RepeatedScalarFieldContainer[str]
    session: int
    def __init__(self, cluster_uid: _Optional[str] = ..., cluster_name: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[str] = ..., is_settling: bool = ..., is_read_only: bool = ..., frames_addresses: _Optional[_Iterable[str]] = ..., session: _Optional[int] = ...) -> None: ...

class WorkDelta(_message.Message):
    __slots__ = ("epoch", "version", "previous_version", "nodes", "nodes_gone", "classes", "classes_gone", "is_all_classes", "gangs", "gangs_gone", "standing", "standing_gone", "is_settling", "idle_s")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODES_GONE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_GONE_FIELD_NUMBER: _ClassVar[int]
    IS_ALL_CLASSES_FIELD_NUMBER: _ClassVar[int]
    GANGS_FIELD_NUMBER: _ClassVar[int]
    GANGS_GONE_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    STANDING_GONE_FIELD_NUMBER: _ClassVar[int]
    IS_SETTLING_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    version: int
    previous_version: int
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    nodes_gone: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedCompositeFieldContainer[DemandClass]
    classes_gone: _containers.RepeatedScalarFieldContainer[str]
    is_all_classes: bool
    gangs: _containers.RepeatedCompositeFieldContainer[Gang]
    gangs_gone: _containers.RepeatedScalarFieldContainer[str]
    standing: _containers.RepeatedCompositeFieldContainer[Standing]
    standing_gone: _containers.RepeatedScalarFieldContainer[str]
    is_settling: bool
    idle_s: float
    def __init__(self, epoch: _Optional[int] = ..., version: _Optional[int] = ..., previous_version: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., nodes_gone: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[_Union[DemandClass, _Mapping]]] = ..., classes_gone: _Optional[_Iterable[str]] = ..., is_all_classes: bool = ..., gangs: _Optional[_Iterable[_Union[Gang, _Mapping]]] = ..., gangs_gone: _Optional[_Iterable[str]] = ..., standing: _Optional[_Iterable[_Union[Standing, _Mapping]]] = ..., standing_gone: _Optional[_Iterable[str]] = ..., is_settling: bool = ..., idle_s: _Optional[float] = ...) -> None: ...

class Busy(_message.Message):
    __slots__ = ("what", "count", "detail")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    what: str
    count: int
    detail: str
    def __init__(self, what: _Optional[str] = ..., count: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node_id", "instance_id", "node_type", "total", "free", "labels", "is_head", "is_cordoned", "is_stale", "is_missing", "idle_s", "idle_serial", "busy", "drain_order", "drain_answer", "notice", "notice_deadline_s", "address")
    class TotalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FreeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_TYPE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    IS_HEAD_FIELD_NUMBER: _ClassVar[int]
    IS_CORDONED_FIELD_NUMBER: _ClassVar[int]
    IS_STALE_FIELD_NUMBER: _ClassVar[int]
    IS_MISSING_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    DRAIN_ORDER_FIELD_NUMBER: _ClassVar[int]
    DRAIN_ANSWER_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    NOTICE_DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    instance_id: str
    node_type: str
    total: _containers.ScalarMap[str, int]
    free: _containers.ScalarMap[str, int]
    labels: _containers.ScalarMap[str, str]
    is_head: bool
    is_cordoned: bool
    is_stale: bool
    is_missing: bool
    idle_s: float
    idle_serial: int
    busy: _containers.RepeatedCompositeFieldContainer[Busy]
    drain_order: str
    drain_answer: str
    notice: str
    notice_deadline_s: float
    address: str
    def __init__(self, node_id: _Optional[str] = ..., instance_id: _Optional[str] = ..., node_type: _Optional[str] = ..., total: _Optional[_Mapping[str, int]] = ..., free: _Optional[_Mapping[str, int]] = ..., labels: _Optional[_Mapping[str, str]] = ..., is_head: bool = ..., is_cordoned: bool = ..., is_stale: bool = ..., is_missing: bool = ..., idle_s: _Optional[float] = ..., idle_serial: _Optional[int] = ..., busy: _Optional[_Iterable[_Union[Busy, _Mapping]]] = ..., drain_order: _Optional[str] = ..., drain_answer: _Optional[str] = ..., notice: _Optional[str] = ..., notice_deadline_s: _Optional[float] = ..., address: _Optional[str] = ...) -> None: ...

class Terms(_message.Message):
    __slots__ = ("terms",)
    class TermsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TERMS_FIELD_NUMBER: _ClassVar[int]
    terms: _containers.ScalarMap[str, str]
    def __init__(self, terms: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Selector(_message.Message):
    __slots__ = ("hard", "fallback", "node_ids", "is_soft_node")
    class HardEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HARD_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    IS_SOFT_NODE_FIELD_NUMBER: _ClassVar[int]
    hard: _containers.ScalarMap[str, str]
    fallback: _containers.RepeatedCompositeFieldContainer[Terms]
    node_ids: _containers.RepeatedScalarFieldContainer[str]
    is_soft_node: bool
    def __init__(self, hard: _Optional[_Mapping[str, str]] = ..., fallback: _Optional[_Iterable[_Union[Terms, _Mapping]]] = ..., node_ids: _Optional[_Iterable[str]] = ..., is_soft_node: bool = ...) -> None: ...

class DemandClass(_message.Message):
    __slots__ = ("key", "amounts", "waiting", "running_slots", "duration_s", "selector", "spread", "kind", "jobs", "waiting_s", "is_quantised", "unplaceable_on")
    class AmountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SLOTS_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    WAITING_S_FIELD_NUMBER: _ClassVar[int]
    IS_QUANTISED_FIELD_NUMBER: _ClassVar[int]
    UNPLACEABLE_ON_FIELD_NUMBER: _ClassVar[int]
    key: str
    amounts: _containers.ScalarMap[str, int]
    waiting: int
    running_slots: int
    duration_s: float
    selector: Selector
    spread: bool
    kind: str
    jobs: _containers.RepeatedScalarFieldContainer[str]
    waiting_s: float
    is_quantised: bool
    unplaceable_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[str] = ..., amounts: _Optional[_Mapping[str, int]] = ..., waiting: _Optional[int] = ..., running_slots: _Optional[int] = ..., duration_s: _Optional[float] = ..., selector: _Optional[_Union[Selector, _Mapping]] = ..., spread: bool = ..., kind: _Optional[str] = ..., jobs: _Optional[_Iterable[str]] = ..., waiting_s: _Optional[float] = ..., is_quantised: bool = ..., unplaceable_on: _Optional[_Iterable[str]] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("amounts", "selector")
    class AmountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    amounts: _containers.ScalarMap[str, int]
    selector: Selector
    def __init__(self, amounts: _Optional[_Mapping[str, int]] = ..., selector: _Optional[_Union[Selector, _Mapping]] = ...) -> None: ...

class Gang(_message.Message):
    __slots__ = ("gang_id", "bundles", "strategy", "job", "waiting_s", "topology", "name")
    GANG_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    WAITING_S_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    gang_id: str
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    strategy: str
    job: str
    waiting_s: float
    topology: str
    name: str
    def __init__(self, gang_id: _Optional[str] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., strategy: _Optional[str] = ..., job: _Optional[str] = ..., waiting_s: _Optional[float] = ..., topology: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("key", "owner", "bundles", "job", "ttl_s")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    key: str
    owner: str
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    job: str
    ttl_s: float
    def __init__(self, key: _Optional[str] = ..., owner: _Optional[str] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., job: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("owner",)
    OWNER_FIELD_NUMBER: _ClassVar[int]
    owner: str
    def __init__(self, owner: _Optional[str] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: int
    def __init__(self, session: _Optional[int] = ...) -> None: ...

class JoinSecretRequest(_message.Message):
    __slots__ = ("session", "token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    token: str
    def __init__(self, session: _Optional[int] = ..., token: _Optional[str] = ...) -> None: ...

class JoinSecretReply(_message.Message):
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: str
    def __init__(self, secret: _Optional[str] = ...) -> None: ...

class CordonRequest(_message.Message):
    __slots__ = ("session", "instance_id", "order", "ttl_s")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    session: int
    instance_id: str
    order: str
    ttl_s: float
    def __init__(self, session: _Optional[int] = ..., instance_id: _Optional[str] = ..., order: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("session", "instance_id", "order", "idle_serial", "deadline_s")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    IDLE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    session: int
    instance_id: str
    order: str
    idle_serial: int
    deadline_s: float
    def __init__(self, session: _Optional[int] = ..., instance_id: _Optional[str] = ..., order: _Optional[str] = ..., idle_serial: _Optional[int] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ("session", "instance_id", "order")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    session: int
    instance_id: str
    order: str
    def __init__(self, session: _Optional[int] = ..., instance_id: _Optional[str] = ..., order: _Optional[str] = ...) -> None: ...

class InstanceRequest(_message.Message):
    __slots__ = ("session", "instance_id")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    session: int
    instance_id: str
    def __init__(self, session: _Optional[int] = ..., instance_id: _Optional[str] = ...) -> None: ...

class BarReply(_message.Message):
    __slots__ = ("is_barred",)
    IS_BARRED_FIELD_NUMBER: _ClassVar[int]
    is_barred: bool
    def __init__(self, is_barred: bool = ...) -> None: ...

class NoticeRequest(_message.Message):
    __slots__ = ("instance_id", "what", "deadline_s")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    what: str
    deadline_s: float
    def __init__(self, instance_id: _Optional[str] = ..., what: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("session", "report_json")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    session: int
    report_json: str
    def __init__(self, session: _Optional[int] = ..., report_json: _Optional[str] = ...) -> None: ...

class ConfigGenerationRequest(_message.Message):
    __slots__ = ("hash", "difference")
    HASH_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    hash: str
    difference: str
    def __init__(self, hash: _Optional[str] = ..., difference: _Optional[str] = ...) -> None: ...

class ConfigGenerationReply(_message.Message):
    __slots__ = ("generation", "hash")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    generation: int
    hash: str
    def __init__(self, generation: _Optional[int] = ..., hash: _Optional[str] = ...) -> None: ...

class RequestResourcesRequest(_message.Message):
    __slots__ = ("owner", "job", "bundles", "ttl_s")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    owner: str
    job: str
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    ttl_s: float
    def __init__(self, owner: _Optional[str] = ..., job: _Optional[str] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("key", "is_not", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    IS_NOT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    is_not: bool
    value: str
    def __init__(self, key: _Optional[str] = ..., is_not: bool = ..., value: _Optional[str] = ...) -> None: ...

class StateRequest(_message.Message):
    __slots__ = ("kind", "filters", "limit", "detail", "timeout_s")
    KIND_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    kind: str
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    limit: int
    detail: bool
    timeout_s: float
    def __init__(self, kind: _Optional[str] = ..., filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ..., limit: _Optional[int] = ..., detail: bool = ..., timeout_s: _Optional[float] = ...) -> None: ...

class StateReply(_message.Message):
    __slots__ = ("rows_json", "total", "is_partial", "warnings")
    ROWS_JSON_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    IS_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    rows_json: _containers.RepeatedScalarFieldContainer[str]
    total: int
    is_partial: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rows_json: _Optional[_Iterable[str]] = ..., total: _Optional[int] = ..., is_partial: bool = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("node_id", "file", "actor_id", "task_id", "worker_id", "job", "pid", "is_error_stream", "tail", "follow", "timeout_s")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    IS_ERROR_STREAM_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    file: str
    actor_id: str
    task_id: str
    worker_id: str
    job: str
    pid: int
    is_error_stream: bool
    tail: int
    follow: bool
    timeout_s: float
    def __init__(self, node_id: _Optional[str] = ..., file: _Optional[str] = ..., actor_id: _Optional[str] = ..., task_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., job: _Optional[str] = ..., pid: _Optional[int] = ..., is_error_stream: bool = ..., tail: _Optional[int] = ..., follow: bool = ..., timeout_s: _Optional[float] = ...) -> None: ...

class LogLines(_message.Message):
    __slots__ = ("node_id", "file", "data", "warning")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    file: str
    data: bytes
    warning: str
    def __init__(self, node_id: _Optional[str] = ..., file: _Optional[str] = ..., data: _Optional[bytes] = ..., warning: _Optional[str] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("limit", "follow")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    limit: int
    follow: bool
    def __init__(self, limit: _Optional[int] = ..., follow: bool = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("at_s", "kind", "fields_json")
    AT_S_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIELDS_JSON_FIELD_NUMBER: _ClassVar[int]
    at_s: float
    kind: str
    fields_json: str
    def __init__(self, at_s: _Optional[float] = ..., kind: _Optional[str] = ..., fields_json: _Optional[str] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("what", "args_json")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    ARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    what: str
    args_json: str
    def __init__(self, what: _Optional[str] = ..., args_json: _Optional[str] = ...) -> None: ...

class JsonReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class DownRequest(_message.Message):
    __slots__ = ("why",)
    WHY_FIELD_NUMBER: _ClassVar[int]
    why: str
    def __init__(self, why: _Optional[str] = ...) -> None: ...
