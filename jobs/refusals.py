"""How an assistant refuses, in words: a person who cannot, and what it cannot do for the one who asks (pure, on an Arrow column).

Being sorry is no refusal, nor is not finding an order: only the inability (or will) not to help, answer, provide or take part counts,
and a request that is outside what the assistant may do. Per language: who will not, what is not done, and set phrases.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def _any(*ways: str) -> str:
    return "(" + "|".join(ways) + ")"


_START = _any(
    r"^\W*(oh,? |no[,.] |nope[,.] |well, )?(i'm |i am )?((really |so |very |deeply |truly )?(sorry|afraid)|(i |my )?apologi\w+)[,.]?( but| that)?,? ",
    r"^\W*", r"[.!?:;,\n–—-]\s*", r"\b(but|and|so|as|that|because|however|therefore|unfortunately|regrettably)[,:]?\s+",
    r"\bas an? [^.!?,\n]{0,50}\b(assistant|bot|chatbot|ai|agent|model),?\s+",
)  # fmt: skip
_I = r"(i |i'm |i am |i'll |i'd |i would )(really |just |simply |also |currently |unfortunately |still |sorry,? (but )?|afraid (that )?|(i |i'm |i am )|do(n't| not) (think|believe) (that )?i (can |could |should )?)*"
_CANNOT = (
    r"(can't|cannot|can not|won't|will not|'?m not able to|not able to|unable to|not (allowed|permitted|authori[sz]ed|going|programmed|designed|trained|willing|prepared|supposed) to|not in a position to"
    r"|must decline to|have to decline to|decline to|refuse to|(do not|don't) feel comfortable|not comfortable|(do not|don't) have the (ability|capability) to|prefer not to|rather not|better not)"
)
_HELP = (
    r"(help(ing)?\b|assist|comply|fulfil|answer(ing)? (that|this|the|your|any|such|questions?|political)|discuss|engage|participate|take part|facilitate|do (that|this|so)\b|support (that|this|such|your)"
    r"|(continue|proceed)\b( with|\W*$|[.!])|respond to (that|this|your|such)|accommodate (that|this|your)|advise (you )?(on|about|against)\b|comment on|(talk|speak) about (that|this|such|any|politic|religio|legal)|diagnose"
)
_DO = (
    rf"((be able to |to |in good conscience |directly |personally |really )*){_HELP}"
    r"|(provid|giv|shar|offer|creat|generat|writ|produc|mak|explain|describ|disclos|reveal|tell)(e|ing)?( you)? (that|this|these|such|any|(the )?(help|information|instructions|answer|assistance)|content|instructions?|information|guidance|[\w-]{0,20} ?advice|assistance|help|support"
    r"|details|content|medical|legal|financial|personal|private|confidential|internal|specific|step|a diagnosis|an? (recipe|guide|tutorial|script) (for|to)|how to|on how|(other|another) (customer|user|person)\w*)\b)"
)
_RULES = r"([\w-]+ ){0,2}(guidelines|guardrails|programming|polic(y|ies)|principles|rules|terms|instructions)\b"
ENGLISH = "(?i)" + _any(
    rf"({_START}{_I}|^\W*((sorry|apologies|unfortunately|nope|no)[,.]? (but )?)?){_CANNOT}\s+{_DO}",
    rf"{_START}{_I}(won't|will not|refuse to|not going to) (generate|write|create|produce|say|repeat|discuss)\b|{_I}(should|do(n't| not) (think|believe) i should) {_HELP})",
    r"\bas an? (ai|artificial|large language|language model)[^.!?\n]{0,40}\bi('m| am)? (can't|cannot|not able|unable|won't)",
    r"\bi('m going to have to| must| have to|'ll have to| will have to|'d have to| need to) (respectfully |politely )?((decline|refuse)( (that|this|your request|to)\b|\W*$|[.,;:!])|pass on (this|that))",
    r"\bi (respectfully |politely )?(decline|refuse) to (answer|help|assist|discuss|take|participate|comply|engage|write|create)",
    r"\bnot something (that )?i('m| am)? (can|able to|allowed to|comfortable|willing)",
    r"\b(something|topic|request|question|subject|content|one) (that |which )?(i|i'm|i am|i'd|i would) "
    rf"{_CANNOT} (do|help|assist|answer|discuss|provide|share|respond|fulfil\w*|create|write|generate|comply|engage|support|comment|talk)\b",
    r"^\W*(sorry|(i'm|i am) (sorry|afraid)|i apologi[sz]e)[,.]?( but)? (i )?(can('t| ?not)|won't|will not)([.!]|\W*$)",
    rf"\b(against|violat(es?|ing)|breach(es)?|contrary to) (my|our) {_RULES}",
    rf"\bmy {_RULES}[^.!?\n]{{0,12}}\b(don't|do not|doesn't|prevent|prohibit|forbid|not)\b",
    r"\bi('ve| have) been (instructed|told|asked|programmed|trained) not to\b",
    r"\b(inappropriate|irresponsible|unethical|not appropriate|not right) (for|of) me to\b",
    r"\b(outside|beyond)( of)? (the scope of )?(what i('m| am)? (can|able|allowed|here|permitted)|my (scope|area|field|expertise|capabilit|role|remit|abilit|purview))",
    r"\bi (can|may) only (answer|help|assist|discuss|respond|talk)\b|\bi('m| am) only (able|allowed|designed|here|permitted) to (answer|help|assist|discuss|respond|talk)",
    r"\bi (do not|don't) (provide|give|offer) ([\w-]+ )?(advice|diagnos\w+)|\bi (do not|don't) (discuss|comment on) ",
)  # fmt: skip
_RICHTLINIEN = r"(richtlinien|grundsätze|nutzungsbedingungen|inhaltsrichtlinien|vorgaben|regeln)"
GERMAN = "(?i)" + _any(
    r"\b(ich (kann|darf|werde|möchte|will)|(kann|darf|werde|möchte|will) ich)\b[^.!?\n\"„“]{0,80}\b(nicht|kein\w*|nichts)\b[^.!?\n]{0,60}\b"
    r"(helfen|weiterhelfen|beantworten|behilflich|unterstützen|nachkommen|erfüllen|mitwirken|tun|verraten|offenlegen|preisgeben|fortfahren|äußern|(informationen|anleitung(en)?|auskunft|auskünfte|ratschläge|rat|hilfe|inhalte|\w*beratung|tipps|anweisungen|angaben)\b[^.!?\n]{0,30}\b(geben|erteilen|bereitstellen|liefern|erstellen|teilen|machen))\b",
    r"\b(darüber|davon|dazu|hierzu|über dieses thema|zu diesem thema|\w*beratung|ratschläge|auskünfte|(anfrage|bitte|frage)[^.!?\n]{0,50}) (kann|darf|möchte|will) ich\b[^.!?\n]{0,30}\b(nicht|nichts|keine)\b[^.!?\n]{0,12}\b(sprechen|reden|sagen|geben|erteilen|bearbeiten|beantworten)\b",
    r"\b(nicht in der lage|mir (leider )?nicht (möglich|erlaubt|gestattet))\b[^.!?\n]{0,80}(helfen|beantworten|unterstützen|erfüllen|nachzukommen|bereitzustellen|anfrage|zu geben|zu nennen|auskunft|informationen)",
    r"\b(muss|möchte|werde) ich\b[^.!?\n]{0,40}\bablehnen\b|\bich (muss|möchte|werde)\b[^.!?\n]{0,60}\bablehnen\b",
    rf"\bgegen (meine|unsere) {_RICHTLINIEN}|\bmeine {_RICHTLINIEN}[^.!?\n]{{0,20}}\b(nicht|verbieten|untersagen)\b",
    r"\b(so ?etwas|sowas|solche \w+|derartige \w+|das) (schreibe|mache|tue|erstelle|beantworte|verfasse) ich nicht\b|äußere ich mich nicht\b",
    r"\b(außerhalb|jenseits)[^.!?\n]{0,25}\b(ich (helfen|tun|darf|kann)|mein\w*|helfen kann)\b|übersteigt mein\w* (fähigkeiten|kompetenz\w*|möglichkeiten)",
    r"\bich (beantworte|helfe|antworte) (nur|ausschließlich)\b|\bich kann (nur|ausschließlich) (fragen|bei)\b",
)  # fmt: skip
FRENCH = "(?i)" + _any(
    r"\bje ne (peux|puis|suis|veux|vais|souhaite|dois|saurais)( malheureusement)?( pas)?( malheureusement)?( être)?( en mesure| autorisée?s?| capable)?( de| à| d'|)[^.!?\n]{0,30}\b(aider|assister|(vous|te) répondre|répondre( à (cette|ce|votre|ta|vos|la)|[.,!]|$)|satisfaire|donner suite|accéder à (cette|votre|ta)|participer|discuter|aborder|commenter|traiter (cette|votre)"
    r"|(fournir|donner|partager|proposer|offrir|rédiger|écrire|créer|générer|divulguer) (d'(instructions?|informations?|aide)|(de|des) (conseils?|détails|contenu|réponse|textes?|données)|(un|une) tel|ces|ce type|ce genre|cette|cela))",
    r"\bje (dois|me dois de) (malheureusement )?(refuser|décliner)|\bje refuse de\b|\b(préfère|préférerais) (ne pas|éviter)( de)?\b[^.!?\n]{0,12}\b(répondre|parler|aborder|discuter|commenter)",
    r"\bil m'est (malheureusement )?impossible de[^.!?\n]{0,30}\b(aider|répondre|fournir|donner|partager|communiquer)",
    r"\bje ne (répondrai|réponds|parlerai|ferai|écrirai|rédigerai) pas\b",
    r"(contraires?|l'encontre|enfrei\w+|viole\w*) (à |de )?(mes|nos) (directives|principes|règles|conditions|politiques|consignes)",
    r"\b(dépasse\w*|sort|hors|en dehors|au-delà) (de |du |des )?(mon|mes|ma|ce que je peux) ?(champ|cadre|domaine|compétence|capacité|périmètre|rôle)?",
    r"\bje ne (peux|suis)[^.!?\n]{0,30}(répondre|aider) (qu'|que )|\bje (peux|réponds) (répondre )?(uniquement|seulement) (répondre|à|aux)",
)  # fmt: skip
SPANISH = "(?i)" + _any(
    r"\bno (puedo|me es posible|me está permitido|tengo permitido|tengo permiso|estoy autorizad[oa]|estoy en condiciones|soy capaz|voy|debo|quiero)( a| de| para|)[^.!?\n]{0,24}\b(ayud\w+|asistir\w*|responder\w*|contestar\w*|cumplir|participar|hablar de|comentar|continuar con|hacer (eso|esto)|escribir (eso|esto|algo)"
    r"|(proporcionar|dar|ofrecer|compartir|facilitar|generar|escribir|crear|redactar|revelar|divulgar)\w* (un |una )?(es[aoe]s?|est[aeo]s?|informaci[oó]n|instrucciones|consejos?|detalles|datos|contenido|diagnóstico|ningun|ayuda|asesoramiento|texto as))\b",
    r"\b(debo|tengo que) (rechazar|negarme|declinar)|\bprefiero no (hablar|responder|contestar|comentar|opinar)",
    r"\b(en contra de|infringe\w*|viola\w*|contrari[oa] a) (mis|nuestr[ao]s) (normas|directrices|principios|políticas|condiciones|reglas)",
    r"\b(fuera|más allá) de (mi|mis) (ámbito|alcance|competencia|capacidad|función|posibilidad)",
    r"\bs[oó]lo puedo (responder|ayudar|contestar|hablar)|\bno (respondo|contesto) (a )?(preguntas|ese|este|esa|esta)",
)  # fmt: skip
ITALIAN = "(?i)" + _any(
    r"\bnon (posso|sono in grado|mi è possibile|mi è (consentito|permesso)|sono autorizzat[oa]|riesco|intendo|voglio)( a| di|)[^.!?\n]{0,24}\b(aiutar\w*|assister\w*|risponder\w*|soddisfar\w*|esaudir\w*|partecipar\w*|farlo|parlare di|discuter\w*|commentare"
    r"|(fornir|dar|offrir|condivider|divulgar|rivelar|scriver|generar|crear)\w* (un |una |dei )?(quest\w+|quel\w*|tal[ei]|informazion\w+|istruzion\w+|consigl\w+|dettagli|dati|contenut\w+|diagnosi|aiuto|indicazion\w+|assistenza|testo))\b",
    r"\bdevo (rifiutare|declinare)|\b(preferisco|preferirei) (non|evitare di) (rispondere|parlar\w*|commentare|discuter\w*)|\bnon (rispondo|risponderò) a",
    r"\b(contro|viola\w*|contrari[oa] a) (le )?(mie|nostre) (linee guida|politiche|norme|regole|condizioni)",
    r"\b(oltre|al di là|al di fuori|fuori) (dell[ae]|dai|dal|de[il])? ?(le )?(mi[eoa]|miei) (possibilità|competenz|ambito|capacità|campo|ruolo)",
    r"\bposso (solo|soltanto) (rispondere|aiutare)|\bposso rispondere (solo|soltanto)",
)  # fmt: skip
PORTUGUESE = "(?i)" + _any(
    r"\bnão (posso|consigo|me é possível|estou autorizad[oa]|tenho (permissão|autorização)|sou capaz|vou|devo|quero)( a| de| para|)[^.!?\n]{0,24}\b(ajud\w+|ajudá\S*|auxili\w+|responder\w*|atender|cumprir|participar|falar sobre|comentar|discutir|fazer isso|escrever isso"
    r"|(fornecer|dar|oferecer|compartilhar|partilhar|gerar|criar|divulgar|revelar) (es[st]\w+|ess\w+|informaç\w+|instruç\w+|conselhos?|detalhes|dados|conteúdo|ajuda|orientaç\w+))\b",
    r"\b(devo|tenho que) (recusar|negar)|\bprefiro não (falar|responder|comentar|opinar)|\bnão me sinto (confortável|à vontade)",
    r"\b(contra|viola\w*|infringe\w*|contraria\w*) (as )?(minhas|nossas) (diretrizes|normas|políticas|regras)|\b(contra|viola\w*|infringe\w*) (os )?nossos (termos|princípios)",
    r"\b(fora|além) d(o|a|os|as) (meus?|minhas?) (alcance|âmbito|escopo|competência|capacidade|função)",
    r"\bs[óo] posso (responder|ajudar|falar)",
)  # fmt: skip
CHINESE = _any(
    r"(我|抱歉|对不起|對不起|遗憾|遺憾|不好意思|人工智能|人工智慧)[^。！？\n“\"「们們他她]{0,30}(不能|无法|無法|没办法|沒辦法|不可以|不便|不会|拒绝|拒絕)[^。！？\n]{0,16}(回答|回应|答复|帮助|幫助|帮您|帮你|幫您|幫你|协助|協助|满足|滿足|讨论|討論|透露|继续|繼續|完成(这|此|您|你|该)|处理(这|此|您|你|该)|執行|执行(这|此|该)|参与|參與"
    r"|(提供|给出|分享|生成|撰写|编写|制作)([^。！？，\n]{0,10}(信息|資訊|建议|建議|指导|帮助|幫助|内容|內容|方法|步骤|材料)|(任何|相关|相關|这|這|此|该|有关|您|你|醫療|医疗|法律)))",
    r"(请求|請求|问题|問題|内容|內容)[^。！？\n他她]{0,8}(违反|違反)[^。！？\n]{0,10}(政策|规定|規定|准则|準則|条款)|超出[^。！？\n]{0,3}我的[^。！？\n]{0,8}(范围|範圍)|我只能(回答|提供|协助|協助|讨论)",
)  # fmt: skip
_JA_NOT = r"(できません|できない|出来ません|できかね|いたしかね|致しかね|しかねます|なれません|お断り|ことはできません|ことができません|控え|難しいです|いたしません)"
JAPANESE = _any(
    r"(申し訳|すみません|ごめんなさい|恐れ入りますが|残念ながら|私は|[そこ](の|のような)(質問|依頼|要望|件|リクエスト|内容|話題))[^。！？\n「]{0,20}[。]?[^。！？\n「]{0,40}(お?答え|ご?回答|お手伝い|お力|情報[^。！？\n]{0,4}提供|ご提供|お応え|応じ|お?話し|手助け|サポート|お助け|支援|コンテンツ|内容|作成|生成|(要望|依頼|リクエスト|質問)[^。！？\n]{0,12}対応)"
    rf"[^。！？\n]{{0,20}}{_JA_NOT}",
    rf"(お答え|お応え|お手伝い|お話し|ご回答|アドバイス|助言|コメント|[そこ]の(ような)?(リクエスト|ご?依頼|ご?要望|ご?質問)[^。！？\n]{{0,4}}(対応|回答))(は|を|に|する|すること|が|も){{0,3}}(差し)?{_JA_NOT}",
    r"(お答え|回答|お応え|お手伝い)(いたし|致し|し|でき)かね",
)  # fmt: skip
KOREAN = _any(
    r"(죄송|미안|유감|안타깝|저는)[^.!?\n]{0,20}[.!]?[^.!?\n]{0,60}(도와|도움|답변|대답|응답|제공|응할|지원|협조|말씀|조언|작성해)[^.!?\n]{0,24}(수 없|수가 없|못 |못합|어렵|어려|불가)",
    r"((도움|답변|조언|정보|의견)[을를은는]? ?|(도와|작성해|알려|말씀) ?)(제공해 ?)?드(릴 수 없|릴 수는 없|리기 어렵|리기 어려|릴 수가 없)|(질문|요청)에[는도]? ?(대답|답변|응)하지 않겠",
    r"(요청|질문)[^.!?\n]{0,12}정책[^.!?\n]{0,6}(위배|위반)",
)  # fmt: skip
RUSSIAN = "(?i)" + _any(
    r"(^|[^\p{L}])я не (могу|смогу|буду|стану|имею (возможности|права)|в состоянии|вправе)[^.!?\n]{0,50}(помочь|помогать|ответить|отвечать|предостав|обсуждать|разглашать|раскрывать|выполнить (эт|ваш|так|данн)|содействовать|участвовать|(это|этого) делать|делать (это|этого)|(дать|давать) ([\p{L}]+ )?(совет|инструкц|рекомендац|консультац|диагноз))",
    r"не могу (с этим |вам |тебе |в этом )+помочь|вынужден[аы]? отказать|(^|[^\p{L}])я отказываюсь (отвечать|помогать|обсуждать|это|писать)|на (такие|эти|подобные) вопросы (я )?не отвеча",
    r"(выходит|находится) за (рамки|пределы|рамками|пределами) мо|(нарушает|противоречит) (мои|моим|наш\p{L}*) (правил|принцип|политик)",
)  # fmt: skip
OTHERS = _any(
    r"(?i)\b(ik (kan|mag|wil|zal)|(kan|mag|wil|zal) ik)\b[^.!?\n]{0,50}\b(niet|geen)\b[^.!?\n]{0,40}\b(helpen|beantwoorden|assisteren|voldoen|meewerken|antwoord op geven|(informatie|instructies|advies|hulp|antwoord) (geven|verstrekken))\b",
    r"(?i)\bnie (mogę|jestem w stanie|wolno mi)[^.!?\n]{0,40}(pomóc|odpowiedzieć|udzielić|spełnić|podać|zrobić tego)",
    r"(لا (أستطيع|يمكنني|أقدر)|لن (أستطيع|أتمكن)|غير قادر على|لست قادر)[^.!?؟\n]{0,30}(مساعد|إجابة|الإجابة|تقديم|تلبية|المشاركة)",
    r"(मदद|सहायता|उत्तर|जवाब|जानकारी)[^।!?\n]{0,30}(नहीं (कर|दे)|असमर्थ)",
    r"(?i)\b(yardımcı olamam|yardımcı olamıyorum|yardım edemem|yardımcı olamayacağım|yanıtlayamam|cevaplayamam|cevap veremem)",
)  # fmt: skip
WAYS = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, CHINESE, JAPANESE, KOREAN, RUSSIAN, OTHERS)
OPENING_CHARS = 160
OPENINGS = "(?i)" + _any(
    rf"({_START}{_I}|^\W*(no|nope),? {_I}){_CANNOT} ",
    r"\bi('m| am) not qualified to|(don't|do not) have the ability to|\bi('m| am)? (unable|not able) to|\bwe are unable to process (this|your) request|\bi draw the line at|\bwon't be (doing|answering|helping)",
    r"\b(ich [\p{L} ]{0,40}\b(kann|darf)|(kann|darf) ich)\b[^.!?\n]{0,60}\b(nicht|kein\w*)\b|\bnicht (zu meinen aufgaben|in der lage)|\b(bin ich|ich bin) [^.!?\n]{0,20}nicht (zuständig|befugt|berechtigt)|\bhelfe ich (dir|ihnen) nicht",
    r"\bje ne (peux|suis pas (en mesure|autoris|habilit))|je n'ai pas (le droit|l'autorisation)|je suis (uniquement|seulement) là|pas partie de mes (attributions|fonctions|compétences)",
    r"\bno puedo\b|\b(lamento|siento) no poder\b|\bno (estoy|soy|tengo) (autoriza|capaz|en condiciones|permiso)",
    r"\bnon posso\b|\bnon sono (in grado|autorizzat)|\bmi è vietato",
    r"\bnão (posso|estou autorizad|tenho (permissão|autorização))",
    r"(我|^您好，|^抱歉，|^对不起，|^對不起，|^很抱歉，)[^。！？\n们們他她]{0,6}(无法|無法|不能|没有办法|沒有辦法|没办法|没有学会)|帮不了(您|你)|幫不了(您|你)",
    r"(申し訳|残念ながら|恐れ入りますが|AI(の|な|である)[^。\n]{0,12}(ため|ので))[^。\n]{0,60}(できません|できかね|いたしかね)|(書く|作る|作成する|お答えする|述べる)ことはできません",
    r"(죄송|유감|안타깝|저는|AI)[^.\n]{0,60}(수 (는 )?없|드리기 (곤란|어렵|어려))|드리기 (곤란|어렵)|(작성|생성|제공)(할|해 드릴) 수 없습니다",
    r"(^|[^\p{L}])я не (могу|смогу|вправе|имею права)|мне (запрещено|не разрешено|нельзя)",
)  # fmt: skip
"""In an answer's first OPENING_CHARS letters an inability alone is a refusal, whatever it is of, but for what INNOCENT takes out."""
ANSWERED = (
    r"(?i)(can't|cannot|can not|won't|not able to|unable to|nicht|kein\w*|ne peux pas|no puedo|non posso|não posso|não consigo|не могу)\b[^.!?\n]{0,100}[,;]\s*"
    r"(but|so|aber|doch|mais|pero|ma|mas|но|said|sagte|dijo|disse)\s+([^i\s]|i[^'\s])[^.!?\n]*"
    r"|(不能|无法|無法)[^。！？\n]{0,20}[，,](但|大约|不过)[^我。]*"
)
"""Not able to say it all, and then an answer: "I can't decide for you, but A is cheaper"."""
QUOTED = '"[^"\n]{0,300}"|“[^”\n]{0,300}”|„[^“”\n]{0,300}[“”]|«[^»\n]{0,300}»|「[^」\n]{0,300}」'
"""What somebody else says."""
LETTER = r"(?i)^\W*(subject|betreff|objet|asunto|oggetto|assunto|件名|тема): |^\W*(dear|sehr geehrte[rs]?|liebe[rs]?|ch[eè]re?|estimad[oa]s?|querid[oa]s?|gentile|car[oa]|prezad[oa]s?|уважаем\p{L}+) [^\n]{1,60}[,:]\s*\n"
"""A letter speaks for the person who asked for it."""
_FIND = (
    r"(find|locate|see|view|hear|read|open|access|load|reach|connect|determine|identify|recogni|detect|tell (from|whether|if|which|the)|say (for|whether|if|how|with)|know|predict|recall|remember|reproduce|verify|confirm|check|calculate|compute|promise|guarantee|be (sure|certain|long|late)|rule out|claim|guess"
    r"|recommend [^.!?\n]{1,40}enough|thank|agree|overstate|overemphasi|stress|emphasi|wait|believe|imagine|stop|stand|lie|go into|repeat|bore|pretend|come|attend|join|make it|accept your|do it alone|(offer|give|issue|state|quote) [^.!?\n]{0,20}(refund|discount|exact|precise)|simply|just|only|speak for|decide for|eat|sleep|breathe|afford|log in|walk|feel)"
)
INNOCENT = "(?i)" + _any(
    rf"(can't|cannot|can not|couldn't|won't|will not|unable to|not able to|not going to)( actually| yet| currently| quite| easily| directly)? {_FIND}[^.!?\n]*",
    r"can('t|not) help (but|feel|think|wonder|notic|admir|fall|smil|laugh|lov|being|it\b)\w*", r"(decline|refuse) your [^.!?\n]{0,30}(invitation|offer)",
    r"\b(ich kann|kann ich)\b[^.!?\n]{0,60}\b(nicht|kein\w*)\b[^.!?\n]{0,60}(finden|sehen|erkennen|öffnen|lesen|laden|versprechen|garantieren|zusichern|ausschließen|genug|glauben|warten|bestätigen|prüfen|feststellen|beurteilen|schlafen|mehr\b|sagen, (ob|wann|wie|was|wo)|genau\w* [^.!?\n]{0,20}(geben|nennen|sagen)|(rabatt|erstattung|gutschrift) [^.!?\n]{0,12}(geben|anbieten)|allein)|\bich kann nicht nur\b",
    r"\bje ne peux (que|pas)( encore| vous| te)* ?(que|voir|trouver|ouvrir|lire|dormir|dire la|accéder au|promettre|garantir|confirmer|croire|attendre|dire si|assez|vérifier)[^.!?\n]*|\bje ne peux que [^.!?\n]*",
    r"\bno puedo (encontrar|ver|abrir|leer|dormir|decir\w* la|asegurar\w*|garantizar\w*|prometer\w*|confirmar|creer|esperar|dejar de|evitar|localizar|consultar|saber|decir\w* (si|con)|más que|sino)[^.!?\n]*",
    r"\bnon posso (che|non|trovare|vedere|dormire|dir\w* la|aprire|leggere|garantir\w*|prometter\w*|confermare|credere|aspettare|fare a meno|dire (se|con)|verificare)[^.!?\n]*",
    r"\bnão (posso|consigo) (deixar|dormir|dizer a|garantir|prometer|encontrar|ver|abrir|ler|localizar|confirmar|acreditar|esperar|dizer (se|com)|verificar)[^.!?\n]*",
    r"(无法|無法|不能)(找到|打开|打開|看到|确定|確定|保证|保證|访问|读取|登录|验证|确认|不)", r"(찾을?|확인할|열|볼|읽을|보장할|구매할|반품할) 수 (는 )?없", r"確認できません|見つけることができません|保証できません|ログインできません",
    r"я не (могу|смогу) (найти|увидеть|назвать|уснуть|открыть|прочитать|гарантировать|обещать|подтвердить|поверить|проверить|сказать точно|не )[^.!?\n]*",
)  # fmt: skip
"""Not to find something, or to promise nothing, refuses nothing; not to be able to help doing something is to do it."""
HINT = (
    r"(?i)can'?t|cannot|can not|won't|will not|don't|do not|unable|draw the line|better not|not (qualified|able|allowed|permitted|something|comfortable|going|programmed|designed|trained|willing|in a|to)|declin|refus|pass on|comfortable|prefer|prefier|rather|guidelines|(my|our) [\w -]*(polic|principles|programming|rules|terms)|ability"
    r"|(in|not )appropriate|irresponsible|unethical|outside|beyond|only (answer|help|assist|discuss|respond|talk|able|allowed|designed|here|permitted)"
    r"|nicht|kein|ablehnen|gegen (meine|unsere)|meine|außerhalb|jenseits|übersteigt|ich [\p{L} ]*(nur|ausschließlich)|je n'|uniquement|vietato|不了|запрещено|нельзя|разрешено|je ne|je (dois|me|refuse)|préf|m'est|contraire|l'encontre|enfrei|viol|infring|dépasse|hors|mon |mes |je (peux|réponds)"
    r"|no (poder|puedo|me|estoy|soy|voy|debo|quiero|respondo|contesto)|debo|tengo|contra|fuera|más allá|s[oó]lo|\bnon (posso|sono|mi|riesco|intendo|voglio|rispond)|devo|oltre|al di|fuori|posso|não|tenho|fora|além"
    r"|不|无法|無法|没办法|沒辦法|没有|拒绝|拒絕|违反|違反|超出|只能|ません|ない|かね|お断り|控え|難しい|없|곤란|못|어렵|어려|불가|않|위배|위반|не |вынужден|отказываюсь|рамк|предел|нарушает|противоречит|niet|geen|\bnie\b|لا |لن |غير|لست|नहीं|असमर्थ|amam|emem|amıyor|amayaca"
)
"""What every refusal holds some of: cheap to look for, so that most answers meet no more than this."""


def _match(texts: pa.Array, pattern: str) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False), bool)


def refused(beginning: pa.Array) -> npt.NDArray[np.bool_]:
    """Which answers refuse, by their beginnings (texts without nulls)."""
    beginning = pc.replace_substring_regex(beginning, "[\u2019\u02bc]", "'")
    maybe = _match(beginning, HINT)
    texts = pc.replace_substring_regex(beginning.filter(pa.array(maybe)), f"{QUOTED}|{INNOCENT}", "")
    out = _match(pc.utf8_slice_codeunits(pc.replace_substring_regex(texts, ANSWERED, ""), 0, OPENING_CHARS), OPENINGS)
    for way in WAYS:
        out |= _match(texts, way)
    maybe[maybe] = out & ~_match(texts, LETTER)
    return maybe
