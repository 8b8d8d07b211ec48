"""People's tokens."""

from fastapi import APIRouter

from app.api.deps import Here, Reader, WriteSession
from app.api.responses import errors
from app.api.schemas import Page
from app.api.schemas_installation import NewTokenOut, TokenIn, TokenOut
from app.db import tokens as rows
from app.services import tokens

router = APIRouter(prefix="/tokens", tags=["tokens"])


@router.post("", status_code=201, response_model=NewTokenOut, responses=errors())
def create(body: TokenIn, session: WriteSession, here: Here) -> NewTokenOut:
    """The token is in this answer and never shown again."""
    row, clear = tokens.create(
        session, body.name, at=here.clock(), ids=here.ids, expires_at=body.expires_at
    )
    return NewTokenOut(**TokenOut.model_validate(row).model_dump(), token=clear)


@router.get("", response_model=Page[TokenOut], responses=errors())
def index(session: Reader) -> dict[str, object]:
    return {"items": rows.every(session), "next_cursor": None}


@router.delete("/{token_id}", status_code=204, response_model=None, responses=errors(404))
def revoke(token_id: str, session: WriteSession, here: Here) -> None:
    tokens.revoke(session, token_id, at=here.clock())
